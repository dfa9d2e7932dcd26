"""Checks of single options; each lists what is wrong."""


def not_positive(section: str, **values: float | None) -> list[str]:
    """List the options that are not above 0."""
    return [
        f"{section}.{name}: got {value:g}, expected a number above 0."
        for name, value in values.items()
        if value is not None and not value > 0  # nor nan
    ]


def not_share(section: str, **values: float | None) -> list[str]:
    """List the options that are not from 0 to 1."""
    return [
        f"{section}.{name}: got {value:g}, expected 0 to 1."
        for name, value in values.items()
        if value is not None and not 0 <= value <= 1
    ]


def not_utf8(section: str, **values: str | None) -> list[str]:
    """List the options whose text cannot be saved."""
    return [
        f"{section}{name}: got {value!r}, expected text that UTF-8 can hold, without NUL."
        for name, value in values.items()
        if value is not None and ("\0" in value or value != value.encode("utf-8", "ignore").decode())
    ]
