from dataclasses import replace
from pathlib import Path

import pytest

from finetune import __version__
from finetune.cli import refuse_training
from finetune.config.outputs import OutputConfig, PreviewConfig
from finetune.config.parse.command_line import parse, read_yaml
from finetune.config.parse.dump import as_flat, dump
from finetune.config.parse.recipe_options import RECIPES, made_for
from finetune.config.recipes import LoRATrainConfig
from finetune.config.sections import DataConfig, ModelConfig
from finetune.config.tracking import TrackingConfig
from finetune.models import FAMILIES

ROOT = Path(__file__).parents[4]
PRESETS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
KINDS = {name.removeprefix("recipes."): kind for name, kind in RECIPES.items()}
REQUIRED = ("--model.source", "model", "--data.folder", "pictures", "--output.folder", "out")
REQUIRED_BY = {"full": REQUIRED, "lora": REQUIRED, "pretrain": REQUIRED[2:]}
PROMPTS = ("--instance.prompt", "a photo of sks dog", "--prior.prompt", "a photo of a dog")
REQUIRED_BY |= {"dreambooth": REQUIRED + PROMPTS, "textual_inversion": (*REQUIRED, "--tokens.names", "<ink>")}


def parsed(*arguments: str) -> LoRATrainConfig:
    return parse(LoRATrainConfig, [*REQUIRED, *arguments], program="test")


def mistakes(*arguments: str, required: tuple[str, ...] = REQUIRED) -> list[str]:
    with pytest.raises(ValueError) as caught:
        parse(LoRATrainConfig, [*required, *arguments], program="test")
    return str(caught.value).splitlines()


def written(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("--lora.kind dora", "Use --lora.kind lora --lora.dora true."),
        ("--lora.kind LoCon", "Use --lora.kind lora --lora.conv true."),
        ("--lora.kind lycoris", "LyCORIS is a family of kinds. Use loha, lokr or oft"),
        ("--lora.kind diag-oft", "Use --lora.kind oft."),
        ("--optim.name PagedAdamW8bit", "Use --optim.name paged_adamw8bit."),
        ("--optim.schedule cosine_with_restarts", "Use --optim.schedule cosine."),
        ("--loss.weighting min_snr_gamma", "Use auto, with --loss.snr_gamma 5."),
        ("--loss.error l2", "Use --loss.error mse."),
        ("--output.dtype float16", "Use --output.dtype fp16."),
        ("--model.quantization qfloat8", "Use --model.quantization fp8."),
        ("--lora.kind oft_2", "Use --lora.kind oft."),
        ("--lora.kind lorra", "Did you mean lora?"),
        ("--fp16", "give --mixed_precision fp16 before -m"),
        ("--bf16", "give --mixed_precision bf16 before -m"),
    ],
)
def test_values_and_switches_of_other_trainers_are_answered_with_ours(words: str, ours: str) -> None:
    assert ours in mistakes(*words.split())[0]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(LoRATrainConfig, ["--version"], program="test")
    line = capsys.readouterr().out
    assert ended.value.code == 0 and line.startswith(f"sd-finetune {__version__}; torch 2.") and "; Python 3." in line


def test_without_options_the_defaults_hold() -> None:
    expected = LoRATrainConfig(ModelConfig("model"), DataConfig("pictures"), OutputConfig(Path("out")))
    assert parsed() == expected


def test_yaml_comes_first_and_flags_win_wherever_they_stand(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 3\noptim:\n  lr: 1.0e-5\n  schedule: cosine\nlora: {rank: 8}\n")
    for arguments in (("--config", path, "--lora.rank", "2"), ("--lora.rank", "2", f"--config={path}")):
        config = parsed(*arguments)
        assert (config.seed, config.optim.lr, config.optim.schedule, config.lora.rank) == (3, 1e-5, "cosine", 2)


def test_yaml_numbers_lists_none_and_booleans_are_read(tmp_path: Path) -> None:
    text = """
    optim: {lr: 1e-4, text_encoder_lr: null}
    loss: {weighting: none, max_timestep: none}
    data: {flip: yes, shuffle_tags: "on"}
    preview: {prompts: ["", "- a cat", "--w 64", none, 7], negative_prompt: "no: this"}
    lora: {targets: [to_q]}
    tracking: {names: []}
    checkpoint:
    """
    config = parsed("--config", written(tmp_path, text))
    assert config.optim.lr == 1e-4 and config.optim.text_encoder_lr is None
    assert config.loss.weighting == "none" and config.loss.max_timestep is None
    assert config.data.flip and config.data.shuffle_tags
    assert config.preview.prompts == ("", "- a cat", "--w 64", "none", "7")
    assert config.preview.negative_prompt == "no: this"
    assert config.lora.targets == ("to_q",) and config.tracking.names == ()


def test_a_token_that_is_given_twice_is_not_repeated() -> None:
    token = "hf_" + "x" * 34
    told = "\n".join(mistakes("--tracking.project", token, "--tracking.project", "ink"))
    assert "tracking.project: given 2 times. Keep one." in told and token not in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--data.flip",), True),
        (("--data.flip", "--seed", "1"), True),
        (("--data.flip", "true"), True),
        (("--data.flip=FALSE",), False),
        (("--data.flip", "0"), False),
    ],
)
def test_booleans_stand_bare_or_with_a_word(arguments: tuple[str, ...], expected: bool) -> None:
    assert parsed(*arguments).data.flip is expected


def test_equals_signs_hyphens_and_negative_numbers() -> None:
    config = parsed("--data.caption-dropout=0.5", "--preview.guidance_scale", "-1.5", "--tracking.tags", "a=b", "-c")
    assert config.data.caption_dropout == 0.5 and config.preview.guidance_scale == -1.5
    assert config.tracking.tags == ("a=b", "-c")
    assert parsed("--preview.prompts=--d 3").preview.prompts == ("--d 3",)
    assert parsed("--tracking.tags=--odd").tracking.tags == ("--odd",)
    assert parsed("--preview.prompts", "a", "b c").preview.prompts == ("a", "b c")
    assert parsed("--tracking.names").tracking.names == ()


def test_a_leading_tilde_is_the_home_folder_in_yaml_and_after_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    path = written(tmp_path, "model: {source: ~/model}\ncache: {folder: ~/cache}\npreview: {prompts: [~/a b]}\n")
    given = ["--config", path, "--data.folder", "a~/b", "--output.folder=~/out"]
    config = parse(LoRATrainConfig, given, program="test")
    assert (config.model.source, config.data.folder) == ("/home/someone/model", "a~/b")
    assert (config.cache.folder, config.output.folder) == (Path("/home/someone/cache"), Path("/home/someone/out"))
    assert config.preview.prompts == ("~/a b",)


def test_several_mistakes_are_told_in_one_message(tmp_path: Path) -> None:
    path = written(tmp_path, "optim: {name: adamww}\ntrainn: {steps: 5}\n")
    flags = ("--optim.lrr", "1", "--lora.rank", "2.5", "--train.steps", "0", "--train.text_encoder")
    found = mistakes("--config", path, *flags)
    for start, word in {
        "optim.name: ": "Did you mean adamw?",
        "trainn.steps: ": "Did you mean train.steps?",
        "optim.lrr: ": "Did you mean optim.lr?",
        "lora.rank: ": "whole number",
        "train.steps: ": "1 or more",
        "cache.text: ": "--cache.text false",
    }.items():
        assert [word in line for line in found if line.startswith(start)] == [True], (start, found)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--optim.lr", "fast"), ["optim.lr: got fast, expected a number"]),
        (("--optim.lr",), ["optim.lr: got nothing"]),
        (("--optim.lr", "nan"), ["optim.lr: got nan", "finite"]),
        (("--optim.lr", "1e-4", "2e-4"), ["optim.lr: got 1e-4 2e-4"]),
        (("--data.flip", "maybe"), ["data.flip: got maybe, expected true or false"]),
        (("--optim.name", "ADAFACTOR"), ["Use --optim.name adafactor."]),
        (("--data.folder", "/", "/tmp"), ["data.folder: got / /tmp, expected text", "The shell made", "Give their"]),
        (
            ("--data.folder", "my", "images"),
            ["data.folder: got my images, expected text", "Give one value; put"],
        ),
        (("--optim.schedule", "cosin"), ["Did you mean cosine?"]),
        (("--learning_rate", "1"), ["learning_rate: no such option", "optim.lr"]),
        (("--mixed_precision", "fp16"), ["mixed_precision: no such option", "before -m"]),
        (("--instance_prompt", "a dog"), ["instance_prompt: no such option. Run"]),  # of a recipe that has none
        (("--model", "x"), ["model: no such option", "--model.source"]),
        (("--seed", "1", "train.steps=3"), ["train.steps=3: ", "Write --train.steps=3"]),
        (("--preview.prompts", "a cat", "train.steps=3"), ["train.steps=3: ", "Write --train.steps=3"]),
        (("--preview.prompts", "a cat", "-train.steps", "3"), ["-train.steps: ", "Write --train.steps."]),
        (("—train.steps=3",), ["—train.steps=3: ", "Write --train.steps=3"]),
        (("--reg_data_dir", "x"), ["reg_data_dir: no such option. Run"]),
        (("--max_train_epochs", "8"), ["called train.epochs here"]),
        (("--xformers",), ["xformers: no such option. Omit it"]),
        (("--rank", "4"), ["rank: no such option", "It is called lora.rank here"]),
        (("--quantization", "nf4"), ["quantization: no such option", "Did you mean model.quantization?"]),
        (("--lora", "4"), ["lora: no such option"]),
        (("--config",), ["config: got nothing"]),
        (("--config", "a.yaml", "b.yaml"), ["config: got a.yaml b.yaml"]),
        (("--config", "absent.yaml"), ["config: no file absent.yaml", "YAML file"]),
        (("--config", "."), ["config: no file ."]),
        (("--",), ["--: expected --NAME VALUE"]),
        (("--seed", "4", "--seed=8"), ["seed: given 2 times, 4 and then 8. Keep one."]),
        (("--data.flip", "--data.flip", "no"), ["data.flip: given 2 times, true and then no"]),
        (("--seed", "4", "--tracking.names", "--seed", "8", "seed=2"), ["seed: given 3 times, 4 and then 8 and then"]),
        (("--config", "a.yaml", "--config", "b.yaml"), ["config: given 2 times, a.yaml and then b.yaml"]),
        (("--tracking.project", "hf_" + "x" * 34), ["tracking.project: holds an access token"]),
    ],
)
def test_a_mistake_is_told_with_what_was_given_and_expected(arguments: tuple[str, ...], words: list[str]) -> None:
    message = "\n".join(mistakes(*arguments))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("required", "word"),
    [
        (("--model.source", "my", "model", *REQUIRED[2:]), "model.source: got my model"),  # a space without quotes
        ((*REQUIRED[:4], "--output.folder", "my", "run"), "output.folder: got my run"),
        ((*REQUIRED[:4], "--output.folder", ""), "output.folder: got nothing"),  # an unset shell variable
        ((*REQUIRED[:2], "--data.folder=", *REQUIRED[4:]), "data.folder: missing"),
        (
            (*REQUIRED[:4], "--output.folder", "caf\udce9"),
            "expected text in UTF-8. Write it into the file of --config",
        ),  # and not missing as well
        (("--config", "absent.yaml"), "config: no file absent.yaml"),  # which may have held what is missing
        (REQUIRED[:4], "output.folder: missing"),
        (("stray", *REQUIRED), "stray: expected an option"),
        (("train.steps=3", *REQUIRED), "Write --train.steps=3"),
    ],
)
def test_required_options_are_refused_as_sentences_too(required: tuple[str, ...], word: str) -> None:
    found = mistakes(required=required)
    assert len(found) == 1 and word in found[0]


@pytest.mark.parametrize("text", ["a: [", "- 1", "just words", "a: \xff"])
def test_a_file_that_is_no_config_is_told_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(text.encode("latin-1"))
    assert "broken.yaml" in mistakes("--config", str(path))[0]


@pytest.mark.parametrize("preset", PRESETS, ids=[preset.stem for preset in PRESETS])
def test_every_preset_comes_back_from_its_dump(preset: Path, tmp_path: Path) -> None:
    recipe = (made_for(preset) or "recipes.lora").removeprefix("recipes.")
    kind = KINDS[recipe]
    config = parse(kind, ["--config", str(preset), *REQUIRED_BY[recipe]], program="test")
    assert parse(kind, ["--config", written(tmp_path, dump(config))], program="test") == config
    given, _ = read_yaml(preset)
    stated = {key for key in given if as_flat(config)[key] is not None}
    assert stated >= {"train.steps", "optim.lr"} or as_flat(config)["goal"] is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_preset_for_a_style_a_subject_and_all_weights(family: str) -> None:
    own = [preset.stem for preset in PRESETS if f"\n  family: {family}\n" in preset.read_text(encoding="utf-8")]
    for goal in ("_lora_style", "_dreambooth_lora", "_full"):
        assert any(stem.endswith(goal) for stem in own), (family, goal)


@pytest.mark.parametrize("recipe", KINDS)
def test_the_defaults_come_back_from_their_dump(recipe: str, tmp_path: Path) -> None:
    kind = KINDS[recipe]
    config = parse(kind, REQUIRED_BY[recipe], program="test")
    assert parse(kind, ["--config", written(tmp_path, dump(config))], program="test") == config


def test_odd_texts_come_back_from_their_dump(tmp_path: Path) -> None:
    odd = ("", " ", "no", "null", "1e5", "0o7", "2024-01-01", "- x", "--x", "a: b", "# c", "'\"\\", "ü\n\té", "=", "😀")
    config = replace(
        parsed(),
        preview=PreviewConfig(prompts=tuple(text for text in odd if text != "--x"), negative_prompt="off"),
        tracking=TrackingConfig(names=("trackio",), tags=odd, run_name="1.0"),
        data=DataConfig("pictures", template="# {caption}: yes\n"),
        output=OutputConfig(Path("007 ü")),
        seed=2**63 - 1,
    )
    assert parse(LoRATrainConfig, ["--config", written(tmp_path, dump(config))], program="test") == config


def test_an_option_that_has_another_name_here_is_not_missing_as_well() -> None:
    found = mistakes("--pretrained_model_name_or_path", "m", "--instance_data_dir", "d", "--output_dir", "o")
    names = ["instance_data_dir", "output_dir", "pretrained_model_name_or_path"]
    assert [line.partition(":")[0] for line in found] == names


def test_a_preset_without_its_option_is_told_the_option() -> None:
    with pytest.raises(ValueError, match=r"demo: expected an option .* A preset or YAML file is --config FILE\."):
        parse(LoRATrainConfig, ["demo", *REQUIRED], program="test")


@pytest.mark.parametrize(("command", "words"), [("lora", "-m recipes.lora "), ("train", "RECIPE is one of recipes.")])
def test_a_recipe_given_to_the_command_that_does_not_train_is_told_how_it_runs(
    command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        refuse_training(command)
    assert words in capsys.readouterr().err
    refuse_training("tokens")  # argparse lists the commands there are
