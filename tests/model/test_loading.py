"""Whole models are loaded ready to use; what cannot be is told as a sentence. The hub is one on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from app import weights
from app.errors import BadModel, InvalidInput, Unavailable, UnknownName
from workers.model.loading import Loaded, load


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Loaded:
    return load(tiny_model, device="cpu")


@pytest.fixture
def broken(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "broken"))


def test_a_model_is_ready_to_be_served(loaded: Loaded, tiny_model: Path) -> None:
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32} == {loaded.dtype}
    assert loaded.model.config.text_config._attn_implementation == "sdpa"
    assert loaded.model.config.vision_config._attn_implementation == "sdpa"
    assert (loaded.ref, loaded.path, loaded.device.type) == (str(tiny_model), tiny_model, "cpu")


def test_its_weights_are_those_of_the_file(loaded: Loaded, tiny_model: Path) -> None:
    held = load_file(tiny_model / "model.safetensors")
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, held[name]), name
    assert loaded.sha256 == sha256((tiny_model / "model.safetensors").read_bytes()).hexdigest()


def test_they_stay_as_they_were_when_the_file_is_written_over(broken: Path) -> None:
    model = load(broken).model
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    file = broken / "model.safetensors"
    with file.open("r+b") as written:
        written.seek(file.stat().st_size // 4)
        written.write(b"\x00" * (file.stat().st_size // 2))
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_its_facts_are_those_of_its_files(loaded: Loaded) -> None:
    token = loaded.tokenizer.convert_tokens_to_ids
    assert (loaded.image_id, loaded.video_id) == (token("<|image_pad|>"), token("<|video_pad|>"))
    assert (loaded.vision_start_id, loaded.vision_end_id) == (token("<|vision_start|>"), token("<|vision_end|>"))
    assert loaded.eos_ids == (token("<|im_end|>"), token("<|endoftext|>"))
    assert (loaded.patch, loaded.merge, loaded.temporal, loaded.max_length) == (7, 3, 2, 4096)
    assert (loaded.images.patch, loaded.images.merge) == (7, 3)
    assert loaded.vocab == loaded.model.get_output_embeddings().weight.shape[0]


def test_another_dtype_is_taken_where_it_is_asked_for(tiny_model: Path) -> None:
    half = load(tiny_model, device="cpu", dtype="bfloat16")
    assert {weight.dtype for weight in half.model.parameters()} == {torch.bfloat16} == {half.dtype}


def test_the_patch_embedding_is_as_it_is_in_the_file_whatever_the_config_says(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text()) | {"fusion_config": {"patch_embeddings": True}}
    (broken / "config.json").write_text(json.dumps(config))
    assert load(broken, device="cpu").model.model.visual.patch_embed.proj.weight.dim() == 5


@pytest.mark.parametrize("device", ["mps", "gpu", "cuda:99"])
def test_a_device_that_there_is_not_is_told(tiny_model: Path, device: str) -> None:
    with pytest.raises(InvalidInput, match=r"device must be auto|there is no device 'cuda:99' here"):
        load(tiny_model, device=device)
    with pytest.raises(UnknownName, match=r"no dtype named 'bf16'; did you mean|no dtype named 'bf16' \(known"):
        load(tiny_model, device="cpu", dtype="bf16")


def test_weights_that_are_missing_are_told_and_not_made_up(broken: Path) -> None:
    held = load_file(broken / "model.safetensors")
    del held["model.visual.merger.linear_fc1.weight"], held["model.visual.merger.linear_fc2.weight"]
    save_file(held, broken / "model.safetensors")
    with pytest.raises(BadModel, match=r"lacks 2 weights, model\.visual\.merger\.linear_fc1\.weight first"):
        load(broken, device="cpu")


def test_weights_of_another_shape_are_told(broken: Path) -> None:
    held = load_file(broken / "model.safetensors")
    held["model.language_model.norm.weight"] = torch.ones(7)
    save_file(held, broken / "model.safetensors")
    with pytest.raises(BadModel, match="cannot be loaded"):
        load(broken, device="cpu")


def test_a_damaged_file_is_told(broken: Path) -> None:
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(BadModel, match="it was cut short"):
        load(broken, device="cpu")


def test_a_tokenizer_that_is_none_or_of_another_model_is_told(broken: Path) -> None:
    swapped = (broken / "tokenizer.json").read_text().replace("<|image_pad|>", "<|x|>").replace("<|video_pad|>", "<|image_pad|>")
    (broken / "tokenizer.json").write_text(swapped.replace("<|x|>", "<|video_pad|>"))
    with pytest.raises(BadModel, match=r"image_token_id is \d+, and in the tokenizer <\|image_pad\|> is \d+"):
        load(broken, device="cpu")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(BadModel, match="its tokenizer cannot be read"):
        load(broken, device="cpu")


def test_a_tokenizer_with_more_tokens_than_the_model_is_told(broken: Path) -> None:
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    last = tokenizer["added_tokens"][-1]
    tokenizer["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<more>"})
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadModel, match=r"the tokenizer has \d+ tokens and the model knows \d+"):
        load(broken, device="cpu")


def test_an_adapter_is_no_whole_model(tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = Qwen3VLForConditionalGeneration.from_pretrained(tiny_model)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(BadModel, match=f"is an adapter for {tiny_model}; load that"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("ref", ["nowhere", "./nowhere", "a/b/c", ""])
def test_a_text_that_names_no_model_is_told(ref: str) -> None:
    with pytest.raises(BadModel, match="is no model"):
        load(ref, device="cpu")


def test_the_sha256_of_shards_and_of_large_weights_tells_them_apart(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Qwen3VLForConditionalGeneration.from_pretrained(tiny_model).save_pretrained(tmp_path, max_shard_size="1MB")
    whole = weights.sha256(tmp_path)
    shard = min(tmp_path.glob("model-*.safetensors"))
    changed = bytearray(shard.read_bytes())
    changed[-1] ^= 1
    shard.write_bytes(changed)
    assert weights.sha256(tmp_path) != whole
    monkeypatch.setattr(weights, "MOST_HASHED_BYTES", 1000)
    quick = weights.sha256(tmp_path)
    changed[-1] ^= 1
    shard.write_bytes(changed)
    assert weights.sha256(tmp_path) == quick
    shard.write_bytes(changed.replace(b'"F32"', b'"I32"', 1))
    assert weights.sha256(tmp_path) != quick


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching a model asks for."""

    folder: Path
    asked: list[str]
    errors: ClassVar = {"private/model": (401, "RepoNotFound"), "gated/model": (403, "GatedRepo"), "ill/model": (500, "")}

    def do_GET(self) -> None:
        self.asked.append(self.path.partition("?")[0])
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name in self.errors:
            code, error = self.errors[name]
            self._answer(code, b"{}", {"X-Error-Code": error} if error else {})
        elif name not in ("org/tiny", "org/text"):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[0] == "api":
            self._answer(200, json.dumps(self._about(name, tree="tree" in parts)).encode(), {"Content-Type": "application/json"})
        else:
            data = self._file(name, parts[-1])
            self._answer(200, data, {"ETag": f'"{sha256(data).hexdigest()}"', "X-Repo-Commit": "c" * 40})

    do_HEAD = do_GET

    def _files(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())

    def _file(self, name: str, file: str) -> bytes:
        if name == "org/text" and file == "config.json":
            return b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
        return (self.folder / file).read_bytes()

    def _about(self, name: str, *, tree: bool) -> object:
        if tree:
            held = {file: self._file(name, file) for file in self._files()}
            return [
                {"type": "file", "path": file, "size": len(data), "oid": sha256(data).hexdigest()[:40]}
                for file, data in held.items()
            ]
        return {"id": name, "sha": "c" * 40, "siblings": [{"rfilename": file} for file in self._files()]}

    def _answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that has the tiny model as org/tiny; gives the paths that it was asked for."""
    handler = type("Here", (Hub,), {"folder": tiny_model, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    at = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", at)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", at + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_on_the_hub_is_fetched_once(hub: list[str], loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = load("org/tiny", device="cpu")
    assert fetched.sha256 == loaded.sha256
    assert fetched.ref == "org/tiny"
    assert not any(path.endswith("README.md") for path in hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub)
    assert load("org/tiny", device="cpu").path == fetched.path
    assert len(hub) == asked


def test_a_model_of_another_kind_is_refused_before_its_weights_are_fetched(hub: list[str]) -> None:
    with pytest.raises(BadModel, match="org/text is a LlamaForCausalLM; synthq works with"):
        load("org/text", device="cpu")
    assert not any(path.endswith("safetensors") for path in hub)


@pytest.mark.parametrize(
    ("ref", "error", "sentence"),
    [
        ("org/nothing", BadModel, "there is no org/nothing on the hub, or it is private; HF_TOKEN opens those"),
        ("private/model", BadModel, "there is no private/model on the hub"),
        ("gated/model", BadModel, "gated/model is gated: accept its terms on the hub, and set HF_TOKEN"),
        ("ill/model", Unavailable, "the hub does not answer"),
    ],
)
def test_what_the_hub_refuses_is_told(hub: list[str], ref: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        load(ref, device="cpu")


def test_a_hub_that_is_not_there_is_told(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"org/tiny is not in the hub's cache on this machine, and the hub does not answer"):
        load("org/tiny", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="and HF_HUB_OFFLINE is set"):
        load("org/tiny", device="cpu")
