import pytest

from finetune.config.drawing.options import (
    FIELDS,
    PromptOptions,
    options_of_mapping,
    read_notation,
    write_notation,
)
from finetune.config.drawing.samplers import SAMPLERS, find_sampler

EVERYTHING = PromptOptions(
    "a cat, {sic} -- it sits",
    negative_prompt="blurry, a dog",
    width=512,
    height=768,
    seed=42,
    num_inference_steps=30,
    guidance_scale=7.5,
    sampler="Euler a",
    strength=(0.8, 0.5),
    image="a photo.png",
    mask_image="mask.png",
    image_strength=0.6,
)


def test_the_notation_of_sd_scripts_is_read() -> None:
    line = "a cat, {sic} -- it sits --w 512 --h 768 --s 30 --l 7.5 --d 42 --n blurry, a dog --ss k_euler_a --am 0.8,0.5"
    options, wrong = read_notation(f"{line} --i a photo.png --m mask.png --t 0.6")
    assert wrong == [] and options == EVERYTHING
    same, wrong = read_notation("a cat --W 512 --negative_prompt=blurry --g 3")
    assert wrong == [] and (same.width, same.negative_prompt, same.guidance_scale) == (512, "blurry", 3.0)


def test_what_is_written_is_read_back() -> None:
    assert read_notation(write_notation(EVERYTHING)) == (EVERYTHING, [])
    for options in (PromptOptions(""), PromptOptions("a cat"), PromptOptions("", width=8, negative_prompt="")):
        assert read_notation(write_notation(options)) == (options, [])


def test_a_prompt_without_options_stays_as_it_is() -> None:
    for text in (" a  cat ", "black--white", "a -- b", "a --- b", "it costs 5--", "two\nlines"):
        assert read_notation(text) == (PromptOptions(text), [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a cat --q 3", "--q: no such option"),
        ("a cat --widths 3", "Did you mean width?"),
        ("a cat --w 3 --w 4", "--w: given twice"),
        ("a cat --l 3 --g 4", "--g: given twice"),
        ("a cat --w wide", "--w: got wide, expected 1 to 16384 pixels"),
        ("a cat --w 0", "--w: got 0"),
        ("a cat --w", "--w: got nothing"),
        ("a cat --d 1,2", "--d: got 1,2, expected one whole number"),
        ("a cat --l nan", "--l: got nan"),
        ("a cat --ss eulr", "Did you mean Euler?"),
        ("a cat --am 1,x", "--am: got 1,x"),
        ("a cat --t 0.5", "--t: given without an image"),
        ("a cat --m mask.png", "--m: given without an image"),
        ("a cat --nl 3", "--nl: the guidance of the negative prompt, which is not supported"),
        ("a cat --ar 16:9", "use --w and --h"),
    ],
)
def test_what_is_wrong_is_named_as_it_is_spelled(line: str, words: str) -> None:
    (problem,) = read_notation(line)[1]
    assert words in problem


def test_all_problems_come_at_once() -> None:
    assert len(read_notation("a cat --q 1 --w x --h y --d z")[1]) == 4


def test_mappings_have_diffusers_spelling() -> None:
    given: dict[object, object] = {**vars(EVERYTHING), "strength": [0.8, 0.5], "sampler": "euler a"}
    assert options_of_mapping(given) == (EVERYTHING, [])
    assert options_of_mapping({"prompt": "a\n cat", "seed": None, "strength": 1}) == (
        PromptOptions("a cat", strength=(1.0,)),
        [],
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "prompt: got nothing"),
        ({"prompt": 3}, "prompt: got 3"),
        ({"prompt": "a", "widths": 3}, "widths: no such option. Did you mean width?"),
        ({"prompt": "a", "width": 3.5}, "width: got 3.5"),
        ({"prompt": "a", "width": True}, "width: got True"),
        ({"prompt": "a --w 3"}, "prompt: holds the option --w"),
        ({"prompt": "a", "negative_prompt": "b --n c"}, "negative_prompt: holds the option --n"),
        ({"prompt": "prompts.txt"}, "got the path prompts.txt"),
        ({"prompt": "a", "strength": []}, "strength: got nothing"),
        ({"prompt": "a", "image_strength": 2, "image": "x.png"}, "image_strength: got 2"),
    ],
)
def test_what_is_wrong_in_a_mapping_is_named(given: dict[object, object], words: str) -> None:
    (problem,) = options_of_mapping(given)[1]
    assert words in problem


def test_samplers_have_names_in_every_programs_spelling() -> None:
    spelled = {
        "DPM++ 2M Karras": ("dpm++_2m_karras", "dpmpp_2m_karras", "DPM++ 2M Karras", "k_dpm++_2m karras"),
        "Euler a": ("euler_a", "k_euler_a", "euler_ancestral", "EulerAncestralDiscreteScheduler"),
        "DPM2 a": ("dpm_2_a", "k_dpm_2_a", "DPM2 a"),
        "PNDM": ("plms", "pndm", "PNDMScheduler"),
        "UniPC": ("uni_pc", "unipc"),
        "DPM++ 2M": ("dpmsolver++", "dpmpp_2m", "DPMSolverMultistepScheduler"),
    }
    for title, names in spelled.items():
        for name in names:
            found = find_sampler(name)
            assert found is not None and found.title == title, name
    other = find_sampler("EDMEulerScheduler")
    assert other is not None and other.scheduler == "EDMEulerScheduler"
    assert find_sampler("nothing") is None and find_sampler("torch.Tensor") is None
    titles = [sampler.title for sampler in SAMPLERS]
    assert len(set(titles)) == len(titles) and all(find_sampler(title) in SAMPLERS for title in titles)


def test_every_field_has_letters_of_its_own() -> None:
    letters = [letter for field in FIELDS.values() for letter in field.letters]
    assert len(set(letters)) == len(letters) and not set(letters) & set(FIELDS)
