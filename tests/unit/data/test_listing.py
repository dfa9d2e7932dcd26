from finetune.data.listing import Findings


def test_long_lists_of_names_are_cut_and_escaped() -> None:
    findings = Findings()
    for name in ("x" * 500, "\x1b[31m", "c", "d", "e", "f"):
        findings.warn("odd", name)
    (line,) = findings.warnings
    assert line.startswith("odd (6)") and line.endswith("and 1 more") and "\x1b" not in line and len(line) < 400
