from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoTokenizer, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from app import weights
from app.errors import InvalidInput
from workers.init_tiny import kinds, texts, words
from workers.model import tokenizer as own
from workers.model.new import Made
from workers.model.tiny import init_tiny
from workers.transport import chat

PROMPT = "Reply with 1 action, and nothing else: noop move_left move_right"


def small(folder: Path, **more: object) -> Made:
    return init_tiny(folder, [PROMPT, "do place_stone"], words=("noop", "move_left"), vocab=512, **more)  # type: ignore[arg-type]


def picture(seed: int, side: int = 63) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def next_logprobs(folder: Path, image: Image.Image) -> torch.Tensor:
    """Log-probabilities of the first token of a reply, float32 [vocab]."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = Qwen2VLImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")
    content = [{"type": "text", "text": PROMPT}, {"type": "image"}]
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    count = int(read["image_grid_thw"].prod()) // model.config.vision_config.spatial_merge_size**2
    ids = tokenizer(text.replace(own.IMAGE, own.IMAGE * count), return_tensors="pt").input_ids
    types = (ids == model.config.image_token_id).int()
    with torch.no_grad():
        given = model(input_ids=ids, mm_token_type_ids=types, attention_mask=torch.ones_like(ids), **read)
    return given.logits[0, -1].log_softmax(-1)


def test_it_loads_as_any_qwen3_vl_does(tiny_model: Path) -> None:
    model, report = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert 0.9e6 < sum(weight.numel() for weight in model.parameters()) < 1.2e6
    config = AutoConfig.from_pretrained(tiny_model)
    assert config.model_type == "qwen3_vl"
    assert max(config.vision_config.deepstack_visual_indexes) < config.vision_config.depth
    rope = config.text_config.rope_parameters
    assert sum(rope["mrope_section"]) * 2 == config.text_config.head_dim


def test_its_tokenizer_has_the_ids_that_its_config_names(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = AutoConfig.from_pretrained(tiny_model)
    assert len(tokenizer) == config.text_config.vocab_size
    assert tokenizer.convert_tokens_to_ids(own.IMAGE) == config.image_token_id
    assert tokenizer.convert_tokens_to_ids(own.VISION_START) == config.vision_start_token_id
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert json.loads((tiny_model / "generation_config.json").read_text())["eos_token_id"] == [
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]


def test_every_text_comes_back_from_its_tokens(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for text in [*texts(seeds=1, turns=1), "Ein Zwölf-Boxkämpfer\r\n\t  jagt 东西 \N{SNOWMAN} ", "a_b __c_ 12,34"]:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_an_action_is_one_token_and_a_call_keeps_its_marks(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for word in words():
        assert len(tokenizer(word).input_ids) == len(tokenizer(f" {word}").input_ids) == 1
    reply = '<tool_call>\n{"name": "interact_many", "arguments": {"actions": ["move_left"]}}\n</tool_call><|im_end|>'
    ids = tokenizer(reply).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == reply.removesuffix("<|im_end|>")


def test_its_chat_template_renders_what_play_renders(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    messages = [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": "x < 3"}, {"type": "image"}]},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == chat.render(messages, add_generation_prompt=True)


def test_a_short_prompt_with_a_frame_is_short(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    shortest = min(len(tokenizer(text).input_ids) for text in texts(seeds=1, turns=1) if text.startswith("<|im_start|>"))
    assert shortest + 8 < 64


@pytest.mark.parametrize("side", [21, 63, 126, 189])
def test_frames_that_fit_are_not_resized(tiny_model: Path, side: int) -> None:
    image = picture(0, side)
    read = Qwen2VLImageProcessorPil.from_pretrained(tiny_model)(image, return_tensors="np")
    assert read["image_grid_thw"].tolist() == [[1, side // 7, side // 7]]
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    assert np.isin(np.round(read["pixel_values"], 4), np.round(pixels, 4)).all()


def test_untrained_it_tries_everything_and_yet_sees_the_picture(tiny_model: Path) -> None:
    one, other = next_logprobs(tiny_model, picture(1)), next_logprobs(tiny_model, picture(2))
    assert one.std() < 1
    assert -(one.exp() * one).sum() > 0.9 * np.log(len(one))
    assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize(("frame_px", "patch", "merge", "tokens"), [(126, 7, 3, 36), (64, 8, 2, 16), (144, 16, 3, 9)])
def test_other_frames_and_patches_make_a_model_that_runs(
    tmp_path: Path, frame_px: int, patch: int, merge: int, tokens: int
) -> None:
    made = small(tmp_path / "model", frame_px=frame_px, patch=patch, merge=merge)
    assert made.frame_tokens == tokens
    assert torch.isfinite(next_logprobs(made.path, picture(0, frame_px))).all()


def test_the_larger_size_has_three_million_parameters(tmp_path: Path) -> None:
    made = small(tmp_path / "model", size="3m")
    assert 2.8e6 < made.parameters < 3.3e6
    assert torch.isfinite(next_logprobs(made.path, picture(0))).all()


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    again = "import sys; from model.test_tiny import *; small(Path(sys.argv[1]), seed=3)"
    tests, repository = Path(__file__).parents[1], Path(__file__).parents[2]
    env = {"PYTHONPATH": f"{tests}:{repository}", "PATH": "", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", again, str(tmp_path / "there")], env=env) as other:
        made = small(tmp_path / "here", seed=3)
        small(tmp_path / "else", seed=4)
    assert other.returncode == 0
    for file in sorted(made.path.iterdir()):
        assert file.read_bytes() == (tmp_path / "there" / file.name).read_bytes(), file.name
    assert (made.path / "model.safetensors").read_bytes() != (tmp_path / "else" / "model.safetensors").read_bytes()


def test_its_lineage_tells_from_what_it_was_made(tmp_path: Path) -> None:
    made = small(tmp_path / "model", seed=5)
    told = json.loads((made.path / "synthq.json").read_text())
    assert (told["kind"], told["size"], told["seed"], told["frame"]) == ("tiny", "1m", 5, {"px": 63, "tokens": 9})
    assert told["sha256"] == made.sha256 == weights.sha256(made.path)
    assert told["parameters"] == made.parameters
    assert f"{made.parameters:,} parameters" in (made.path / "README.md").read_text()


def test_a_folder_with_anything_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="is not empty"):
        small(tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        small(tmp_path / "notes.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert (small(tmp_path / "model").path / "config.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"frame_px": 64}, "multiple of patch x merge = 21, such as 63, not 64"),
        ({"frame_px": 0}, "such as 21, not 0"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"patch": 0}, "patch must be 1 to 64, not 0"),
        ({"size": "2m"}, "no size of a tiny model named '2m' .known: 1m, 3m"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused_and_leave_nothing(tmp_path: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        small(tmp_path / "model", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_word_that_cannot_be_one_token_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'move left' does not become one token"):
        init_tiny(tmp_path / "model", [PROMPT], vocab=512, words=("move left",))
    with pytest.raises(InvalidInput, match="512 tokens or more, not 100"):
        init_tiny(tmp_path / "model", [PROMPT], vocab=100)
    assert list(tmp_path.iterdir()) == []


def test_the_texts_show_every_kind_of_prompt_and_are_the_same_every_time() -> None:
    told = list(texts(seeds=1, turns=2))
    assert told == list(texts(seeds=1, turns=2))
    assert len([text for text in told if text.startswith("<|im_start|>")]) == 2 * len(kinds())
    assert any("<tool_call>" in text for text in told)
    assert any("Your last turns:" in text for text in told)
    assert any("unlocked: collect_diamond" in text for text in told)
