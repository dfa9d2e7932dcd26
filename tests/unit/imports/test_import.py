import json
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from finetune.cli import main
from finetune.config.parse.dump import as_flat
from finetune.config.parse.recipe_options import RECIPES, parse_recipe
from finetune.imports.command import import_config
from tests.support.guides import ROOT

CASES = ROOT / "tests" / "cases" / "imports"
Cases = dict[str, tuple[str, str]]
EXPECTED = {
    "sd_scripts.toml": (
        "recipes.lora",
        {
            "lora.rank": 32,
            "lora.alpha": 8,
            "lora.conv": True,
            "optim.name": "adamw8bit",
            "optim.weight_decay": 0.05,
            "optim.beta2": 0.99,
            "loss.prediction_type": "v_prediction",
            "train.text_encoder": True,
            "cache.text": False,
            "data.resolution": 640,
            "data.keep_tags": 1,
            "data.caption_dropout": 0.0,
            "data.folders": [
                {"folder": "style", "repeats": 3},
                {"folder": "more"},
                {"folder": "class", "caption": "drawing", "is_regularisation": True},
            ],
        },
    ),
    "sd_scripts_flow.sh": (
        "recipes.lora",
        {
            "lora.alpha": 1,
            "loss.timestep_density": "uniform",
            "loss.timestep_shift": 3,
            "optim.name": "prodigy",
            "optim.lr": 1,
            "optim.warmup_steps": 0,
            "data.max_aspect": 1,
        },
    ),
    "ai_toolkit.yaml": (
        "recipes.lora",
        {
            "train.steps": 1000,
            "train.accumulation": 2,
            "model.quantization": "fp8",
            "loss.timestep_density": "logit_normal",
            "data.trigger": "lntrn",
            "data.folders": [{"folder": "images/lantern"}, {"folder": "images/more", "repeats": 2, "resolution": 512}],
            "output.folder": "output/lantern",
            "preview.prompts": ["a lantern on a table", "a lantern in the snow"],
        },
    ),
    "one_trainer.json": (
        "recipes.lora",
        {
            "lora.alpha": 1,
            "loss.weighting": "auto",
            "loss.max_timestep": 899,
            "loss.timestep_shift": None,
            "mask.kind": "file",
            "model.quantization": "fp8",
            "preview.prompts": ["a paper boat --w 1024 --h 768 --d 42"],
        },
    ),
    "simple_tuner.json": (
        "recipes.lora",
        {
            "lora.kind": "lokr",
            "lora.factor": 16,
            "lora.dropout": 0,
            "data.resolution": 1024,
            "data.max_aspect": 1,
            "train.steps": 4000,
            "train.max_grad_norm": 0,
        },
    ),
    "simple_tuner.env": ("recipes.lora", {"lora.rank": 8, "lora.dropout": 0.1, "train.steps": 3000}),
    "kohya_gui.json": (
        "recipes.lora",
        {
            "lora.kind": "lokr",
            "lora.rank": 24,
            "lora.alpha": 6,
            "lora.factor": 12,
            "lora.conv": True,
            "data.resolution": 704,
            "data.keep_tags": 2,
            "train.epochs": 7,
            "train.batch_size": 3,
            "train.text_encoder": False,
            "optim.name": "lion8bit",
            "optim.lr": 0.0003,
            "optim.weight_decay": 0.02,
            "optim.schedule": "cosine",
            "loss.timestep_shift": None,
            "loss.offset_noise": 0.03,
            "loss.pyramid_noise": 0,
            "preview.prompts": ["a teapot", "a teapot in snow --w 512"],
        },
    ),
    "diffusers.sh": (
        "recipes.dreambooth",
        {"lora.rank": 4, "instance.prompt": "a photo of sks dog", "prior.kind": "pictures", "data.crop": "random"},
    ),
}
"""The recipe of each case, and options whose value is not ours by default or must not be theirs."""


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Return the printed lines and the command of every case."""
    folder = tmp_path_factory.mktemp("imports")
    return {name: imported(CASES / name, folder / f"{name}.new.yaml") for name in EXPECTED}


def imported(path: Path, output: Path) -> tuple[str, str]:
    """Import a file; return the printed lines and the command among them."""
    said: list[str] = []
    import_config(path, [], output, said.append)
    return "\n".join(said), said[-1].splitlines()[-1]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_command_of_an_imported_config_is_parsed_by_its_recipe(name: str, cases: Cases) -> None:
    _, command = cases[name]
    words = shlex.split(command)
    recipe = words[words.index("-m") + 1]
    config, _ = parse_recipe(RECIPES[recipe], words[words.index("--config") :], recipe, print)
    values = as_flat(config)
    assert (recipe, {key: values[key] for key in EXPECTED[name][1]}) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_option_is_named_in_the_lists(name: str, cases: Cases) -> None:
    from finetune.config.trainers.formats import read_file
    from finetune.config.trainers.recognise import trainer_of
    from finetune.imports.readers import read_given

    content = read_file(CASES / name)
    given = read_given(trainer_of(content) or "", content, CASES)
    text, _ = cases[name]
    assert not [key for key, value in given.options.items() if key not in text and str(value) not in text]


def test_what_is_unknown_is_listed_and_secrets_are_not_shown(cases: Cases) -> None:
    text, _ = cases["sd_scripts.toml"]
    unknown = text.partition("Unknown among the options of sd-scripts")[2]
    assert "invented_option 3" in unknown and "not-shown" not in text and "wandb_api_key (hidden)" in text
    for name in ("one_trainer.json", "simple_tuner.json"):
        text, command = cases[name]
        words = shlex.split(command)
        assert "hidden-value" not in text + Path(words[words.index("--config") + 1]).read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sd_scripts.toml", "lora.alpha 8 with lora.rank 32: updates are scaled by 0.25"),
        ("sd_scripts.toml", "subsets[0].image_dir style (num_repeats 3) -> data.folders {folder: style, repeats: 3}"),
        ("sd_scripts.toml", "image_dir more: flip_aug not given; that of the first folder holds for all, true"),
        ("sd_scripts.toml", "train.batch_size 4 is per process"),
        ("sd_scripts.toml", "lr_scheduler cosine_with_restarts -> optim.schedule cosine: cosine falls once"),
        ("sd_scripts_flow.sh", "lr_scheduler constant has no warm-up there"),
        ("sd_scripts_flow.sh", "min_snr_gamma not given -> loss.weighting none, its default there"),
        ("ai_toolkit.yaml", "a run has one resolution; the largest is taken"),
        ("one_trainer.json", "its type VALIDATION is not read"),
        ("simple_tuner.json", "backend bucket: its type aws is not read"),
        ("kohya_gui.json", "epoch is max_train_epochs, lr_warmup is lr_warmup_steps"),
        ("kohya_gui.json", "learning_rate 0.002: learning_rate is for parts without a rate of their own"),
        ("kohya_gui.json", "gpu_ids 0,1"),
        ("diffusers.sh", "push_to_hub true: nothing is uploaded"),
    ],
)
def test_differences_are_said(name: str, words: str, cases: Cases) -> None:
    assert words in cases[name][0]


@pytest.mark.parametrize("inner", ["", "/sketches"])
def test_epochs_stay_epochs_and_their_shares_become_steps_where_the_images_are(inner: str, tmp_path: Path) -> None:
    """Repeats hold for subfolders too, as in a run."""
    for folder, num in ((f"10_ink{inner}", 3), ("2_paper", 5)):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(num):
            (tmp_path / "images" / folder / f"{number}.png").touch()
    (tmp_path / "theirs.toml").write_text(
        f'network_dim = 8\ntrain_data_dir = "{(tmp_path / "images").as_posix()}"\nmax_train_epochs = 3\n'
        "train_batch_size = 4\nsave_every_n_epochs = 1\nlr_warmup_steps = 0.1\nlr_scheduler = 'cosine'\n"
    )
    imported(tmp_path / "theirs.toml", tmp_path / "new.yaml")
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert written["train"]["epochs"] == 3 and "steps" not in written["train"]
    assert written["checkpoint"]["every"] == 10  # (10 x 3 + 2 x 5) / 4
    assert written["optim"]["warmup_steps"] == 3


def test_repeats_of_a_single_folder_become_epochs(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "absent"\nnum_repeats = 10\n')
    (tmp_path / "theirs.toml").write_text(
        f'network_dim = 8\ndataset_config = "{(tmp_path / "data.toml").as_posix()}"\nmax_train_epochs = 3\n'
    )
    text, _ = imported(tmp_path / "theirs.toml", tmp_path / "new.yaml")
    assert yaml.safe_load((tmp_path / "new.yaml").read_text())["train"]["epochs"] == 30
    assert "max_train_epochs 3 -> train.epochs 30: an epoch there is 10 passes" in text


def folders_of(theirs: object, path: Path) -> tuple[list[dict[str, object]], str]:
    """Import a config, and return its data.folders with the printed lines."""
    path.write_text(json.dumps(theirs))
    text, _ = imported(path, path.with_suffix(".new.yaml"))
    return yaml.safe_load(path.with_suffix(".new.yaml").read_text())["data"]["folders"], text


def test_folders_of_every_trainer_keep_their_words_repeats_and_sizes(tmp_path: Path) -> None:
    concept = {"path": "a", "balancing": 0.5, "text": {}, "image": {}}
    wide = {"enable_resolution_override": True, "resolution_override": "768"}
    concepts = [concept, concept | {"path": "b", "balancing": 2, "image": wide}]
    theirs = json.loads((CASES / "one_trainer.json").read_text()) | {"concepts": concepts}
    folders, _ = folders_of(theirs, tmp_path / "one_trainer.json")
    assert folders == [{"folder": "a"}, {"folder": "b", "repeats": 4, "resolution": 768}]

    datasets = [
        {"folder_path": "a", "trigger_word": "zkw", "resolution": [512]},
        {"folder_path": "b", "is_reg": True, "default_caption": "a dog", "loss_multiplier": 0.5, "resolution": [768]},
        {"folder_path": "c", "mask_path": "c_masks", "num_repeats": 2, "resolution": [512]},
    ]
    process = {"type": "sd_trainer", "network": {"linear": 4}, "datasets": datasets}
    folders, _ = folders_of(
        {"job": "extension", "config": {"name": "x", "process": [process]}}, tmp_path / "ai_toolkit.json"
    )
    assert folders == [
        {"folder": "a", "trigger": "zkw"},
        {"folder": "b", "is_regularisation": True, "weight": 0.5, "resolution": 768, "caption": "a dog"},
        {"folder": "c", "repeats": 2, "mask_folder": "c_masks"},
    ]

    backends = [
        {"id": "a", "type": "local", "instance_data_dir": "a", "probability": 3, "resolution": 512},
        {"id": "b", "type": "local", "instance_data_dir": "b", "caption_strategy": "instanceprompt"}
        | {"instance_prompt": "a lamp", "resolution": 1024, "caption_shuffle": {"enable": True}},
    ]
    (tmp_path / "backend.json").write_text(json.dumps(backends))
    theirs = json.loads((CASES / "simple_tuner.json").read_text()) | {"--lora_type": "standard"}
    folders, text = folders_of(theirs, tmp_path / "simple_tuner.json")
    assert folders == [
        {"folder": "a", "share": 0.75},
        {"folder": "b", "share": 0.25, "resolution": 1024, "caption": "a lamp"},
    ]
    assert "caption_shuffle.enable true; that of the first folder holds for all" in text


def test_captions_beside_class_images_are_kept(tmp_path: Path) -> None:
    for name, text in (("own", "a zkw dog"), ("more", "a zkw dog"), ("class", "a brown dog")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(text)
    subsets = [{"image_dir": str(tmp_path / name), "class_tokens": "dog"} for name in ("own", "more", "class")]
    subsets[2] |= {"is_reg": True, "caption_prefix": "old"}
    theirs = {"network_dim": 4, "prior_loss_weight": 0.7, "datasets": [{"subsets": subsets}]}
    folders, _ = folders_of(theirs, tmp_path / "theirs.json")
    assert [each.get("caption") for each in folders] == [None, None, None]
    assert (folders[2]["weight"], folders[2]["caption_prefix"]) == (0.7, "old")


def test_what_our_parser_refuses_is_listed_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "theirs.toml").write_text('network_dim = 0\nlearning_rate = "fast"\nmax_train_steps = 10\n')
    text, _ = imported(tmp_path / "theirs.toml", tmp_path / "new.yaml")
    assert "network_dim -> lora.rank 0: refused. lora.rank: got 0" in text and "optim.lr: got fast" in text
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert "rank" not in written["lora"] and written["train"]["steps"] == 10


@pytest.mark.parametrize(
    ("fields", "ours"),
    [
        ({"lr_warmup": 25, "lr_warmup_steps": 0, "max_train_steps": 80}, {"steps": 80, "warmup_steps": 20}),
        ({"lr_warmup": 25, "lr_warmup_steps": 6, "max_train_steps": 80}, {"steps": 80, "warmup_steps": 6}),
        ({"lr_warmup": 0, "max_train_steps": "", "epoch": 9}, {"epochs": 9, "warmup_steps": None}),
        ({"LoRA_type": "Standard", "conv_dim": 8}, {"kind": None, "conv": None}),
        ({"LoRA_type": "Kohya LoCon", "conv_dim": 8}, {"kind": None, "conv": True}),
        ({"LoRA_type": "Flux1 OFT", "flux1_checkbox": True, "sdxl": False}, {"kind": "oft", "timestep_shift": 2.5}),
        ({"unet_lr": 0, "text_encoder_lr": 0.0004}, {"lr": 0.002, "text_encoder_lr": 0.0004}),
        ({"additional_parameters": "--network_dim=5 --max_grad_norm 0.5"}, {"rank": 5, "max_grad_norm": 0.5}),
    ],
)
def test_fields_of_the_gui_mean_what_it_passes_to_sd_scripts(
    fields: dict[str, object], ours: dict[str, object], tmp_path: Path
) -> None:
    theirs = json.loads((CASES / "kohya_gui.json").read_text()) | fields
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    imported(tmp_path / "theirs.json", tmp_path / "new.yaml")
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    flat = {name: value for part in written.values() if isinstance(part, dict) for name, value in part.items()}
    assert {name: flat.get(name) for name in ours} == {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in ours.items()
    }


RATES = {"network_dim": 4, "unet_lr": 1e-3, "learning_rate": 2e-5}
ONE_TRAINER = json.loads((CASES / "one_trainer.json").read_text()) | {"optimizer": {"optimizer": "ADAMW"}}
AI_TOOLKIT = {"config": {"process": [{"network": {"linear": 4}, "train": {"unet_lr": 1e-3, "lr": 2e-5}}]}}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("theirs", "denoiser", "text_encoder"),
    [
        (RATES, 1e-3, 2e-5),
        (RATES | {"text_encoder_lr": 5e-6}, 1e-3, 5e-6),
        (RATES | {"network_train_unet_only": True}, 1e-3, None),
        ({"network_dim": 4, "learning_rate": 2e-5}, 2e-5, None),
        (ONE_TRAINER | {"unet": {"learning_rate": 1e-3}}, 1e-3, None),
        (AI_TOOLKIT, 1e-3, None),
    ],
)
def test_the_rate_of_the_denoiser_wins_in_any_order(
    theirs: dict[str, object], denoiser: float, text_encoder: float | None, flip: bool, tmp_path: Path
) -> None:
    items = list(theirs.items())
    (tmp_path / "theirs.json").write_text(json.dumps(dict(items[::-1] if flip else items)))
    text, _ = imported(tmp_path / "theirs.json", tmp_path / "new.yaml")
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())["optim"]
    given = written.get("text_encoder_lr")
    assert (float(written["lr"]), given if given is None else float(given)) == (denoiser, text_encoder)
    assert denoiser != 1e-3 or "is for parts without a rate of their own" in text


def test_the_rate_of_new_tokens_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "theirs.toml").write_text('token_string = "zkw"\nlearning_rate = 0.003\nnum_vectors_per_token = 2\n')
    imported(tmp_path / "theirs.toml", tmp_path / "new.yaml")
    assert yaml.safe_load((tmp_path / "new.yaml").read_text())["tokens"]["lr"] == 0.003


def test_a_variable_that_the_file_does_not_set_is_refused_as_a_value(tmp_path: Path) -> None:
    (tmp_path / "theirs.sh").write_text(
        "for r in 4 8; do\n  accelerate launch train_network.py --network_dim $r --optimizer_type Prodigy "
        "--learning_rate $rate --max_train_steps 10\ndone\n"
    )
    text, _ = imported(tmp_path / "theirs.sh", tmp_path / "new.yaml")
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert "network_dim -> lora.rank $r: refused" in text and "rank" not in written["lora"]
    assert written["optim"]["lr"] == 1 and "learning_rate $rate" in text


def test_an_existing_file_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("mine")
    with pytest.raises(ValueError, match=r"new\.yaml exists"):
        import_config(CASES / "diffusers.sh", [], tmp_path / "new.yaml", print)
    assert (tmp_path / "new.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", '{"width": 3, "height": 4}', r"width, height.*sd-scripts: TOML"),
        ("x.txt", "a photo of a dog, sitting", "neither TOML, JSON, YAML"),
        ("x.json", (CASES / "backend.json").read_text(), "a list of datasets of SimpleTuner"),
        ("x.conf", "\udcff", "not a text in UTF-8"),
        ("x.bat", "accelerate launch train_network.py\npause", r"got train_network\.py without options"),
    ],
)
def test_a_file_of_another_kind_is_described(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=words):
        import_config(tmp_path / name, [], tmp_path / "new.yaml", print)
    assert not (tmp_path / "new.yaml").exists()


@pytest.mark.parametrize(
    "name", ["sd_scripts.toml", "ai_toolkit.yaml", "one_trainer.json", "simple_tuner.json", "kohya_gui.json"]
)
def test_a_config_of_another_trainer_given_as_ours_names_the_command(name: str) -> None:
    with pytest.raises(ValueError, match=rf"is a config of .*Use: finetune import .*{name}"):
        parse_recipe(RECIPES["recipes.lora"], ["--config", str(CASES / name)], "recipes.lora", print)


def test_arguments_behind_two_hyphens_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = (
        "accelerate launch --num_processes 2 train_text_to_image_lora.py --dataset_name me/cats --rank 8 --random_flip"
    )
    words = ["finetune", "import", "--output", str(tmp_path / "new.yaml"), "--", *theirs.split()]
    monkeypatch.setattr(sys, "argv", words)
    main()
    written = yaml.safe_load((tmp_path / "new.yaml").read_text())
    assert written["data"]["folder"] == "me/cats" and written["data"]["flip"] is True and written["lora"]["rank"] == 8
    printed = capsys.readouterr().out
    assert "accelerate launch --num_processes 2 -m recipes.lora" in printed and "learning_rate not given" in printed


def test_a_saved_config_with_every_option_of_its_trainer_is_imported(tmp_path: Path) -> None:
    content = json.loads((CASES / "one_trainer.json").read_text())
    content |= {"prior": {"train": True}, "cloud": {"host": "here"}, "effnet_encoder": {"weight_dtype": "FLOAT_16"}}
    (tmp_path / "all.json").write_text(json.dumps(content))
    assert "Unknown" not in imported(tmp_path / "all.json", tmp_path / "new.yaml")[0]
