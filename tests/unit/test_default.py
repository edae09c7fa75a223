"""The embedded default: built once, rebuilt when its inputs change, whole or not at all."""

from __future__ import annotations

import multiprocessing
from itertools import count
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from criticrm_model import CheckpointError, default
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reward_vector import load_reward_vector, save_reward_vector
from support.killer import killed
from support.tiny import card, fill, make_model, make_tokenizer, reward_vector

pytestmark = pytest.mark.slow

_LORA = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "down_proj"])


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The default with a tiny base and adapter; each time that the base is read from its file adds an entry."""
    return install_tiny_base(monkeypatch, tmp_path)


def install_tiny_base(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[int]:
    built: list[int] = []

    def published(_: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        built.append(1)
        tokenizer = make_tokenizer()
        return make_model(len(tokenizer)), tokenizer

    adapter = folder / "adapter"
    if not adapter.is_dir():  # what several processes share is written once: its digest is the cache's key
        adapted = get_peft_model(published(folder)[0], _LORA)
        fill(adapted)
        adapted.save_pretrained(adapter)
        save_reward_vector(reward_vector(), card(), adapter)
        built.clear()
    monkeypatch.setattr(default, "ADAPTER", adapter)
    monkeypatch.setattr(default, "_load_published", published)
    return built


def test_built_once(builds: list[int], tmp_path: Path) -> None:
    first = default.build_default(tmp_path / "cache")
    assert default.build_default(tmp_path / "cache") == first
    assert len(builds) == 1
    assert Checkpoint.open(first).manifest.base_model == "tiny-llama"


def test_it_is_the_base_under_the_adapter(builds: list[int], tmp_path: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    folder = default.build_default(tmp_path / "cache")
    base = AutoModelForCausalLM.from_pretrained(default.build_base(tmp_path / "cache"))
    assert len(builds) == 1  # one folder of the base, for all that is made from it
    alone = base(ids).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
    served = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[..., : alone.shape[-1]]
    torch.testing.assert_close(served, adapted, atol=1e-4, rtol=1e-4)
    assert (adapted - alone).abs().max() > 0.1


def test_rebuilt_when_the_reward_changes(builds: list[int], tmp_path: Path) -> None:
    stranger = tmp_path / "cache" / "default-notes" / "mine.txt"
    stranger.parent.mkdir(parents=True)
    stranger.touch()
    first = default.build_default(tmp_path / "cache")
    save_reward_vector(reward_vector() * 2, card(), tmp_path / "adapter")
    second = default.build_default(tmp_path / "cache")
    assert second != first
    assert len(builds) == 1
    # Nothing is cleared away: the folder is the caller's, and another process may be serving the first.
    assert Checkpoint.open(first)
    assert stranger.exists()


def test_a_build_that_fails_leaves_nothing(builds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(default.Checkpoint, "open", lambda _: (_ for _ in ()).throw(CheckpointError("broken")))
        with pytest.raises(CheckpointError, match="broken"):
            default.build_default(tmp_path / "cache")
    assert list((tmp_path / "cache").glob("default-*")) == []
    assert default.build_default(tmp_path / "cache").is_dir()
    assert len(builds) == 1


@pytest.mark.usefixtures("builds")
def test_what_a_killed_build_has_left_is_cleared_away(tmp_path: Path) -> None:
    for point in count():
        (tmp_path / str(point)).mkdir()
        theirs = tmp_path / str(point) / "default-notes.partial"
        theirs.touch()
        ended = not killed(lambda cache: default.build_default(cache), theirs.parent / "cache", point)
        folder = default.build_default(theirs.parent / "cache")
        assert Checkpoint.open(folder)
        assert [path.name for path in folder.parent.glob("default-????????????????*")] == [folder.name], point
        assert len(list(folder.parent.glob("base-*"))) == 1, point
        if ended:
            assert point >= 10
            return


def _build(folder: Path) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        built = install_tiny_base(monkeypatch, folder)
        Checkpoint.open(default.build_default(folder / "cache"))
    return len(built)


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    install = pytest.MonkeyPatch()
    install_tiny_base(install, tmp_path)  # writes the adapter that both read
    install.undo()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert sum(pool.map(_build, [tmp_path, tmp_path], chunksize=1)) == 1


def test_the_base_has_a_name(builds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITICRM_CACHE", str(tmp_path))
    assert default.resolve("default-base") == default.build_base()
    assert len(builds) == 1


def test_names_and_folders(tmp_path: Path) -> None:
    assert default.resolve(str(tmp_path)) == tmp_path
    for name in ("./nothing", "/nothing/here", "just-a-name", "a/b/c"):
        with pytest.raises(CheckpointError, match="is not a folder"):
            default.resolve(name)


@pytest.mark.parametrize("name", ["my models/critic rm", "owner/-name", "a/" + "b" * 100])
def test_what_the_hub_would_not_take_as_a_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"is not a folder, and not a hub name .*: check the path"):
        default.resolve(name)


def test_a_hub_name_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / name))
    assert default.resolve("owner/name") == tmp_path / "owner" / "name"


def test_a_hub_that_is_out_of_reach_is_told_in_our_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(_: str, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match=r"owner/name is no local folder and can't be downloaded: no route"):
        default.resolve("owner/name")


def test_the_default_is_built_where_the_variable_says(
    builds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICRM_CACHE", str(tmp_path / "elsewhere"))
    assert default.resolve("default").parent == tmp_path / "elsewhere"
    assert len(builds) == 1


def test_the_committed_adapter_fits_the_base() -> None:
    reward, known = load_reward_vector(default.ADAPTER)
    assert reward.shape == (896,)
    assert reward.dtype == torch.float32
    assert torch.isfinite(reward).all()
    assert reward.any()
    assert known.base_model == default.BASE_NAME
    assert known.calibration is not None
    assert known.training_data
    assert PeftConfig.from_pretrained(default.ADAPTER).base_model_name_or_path == default.BASE_NAME
    files = [path for path in default.ADAPTER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20_000_000
    assert (default.ADAPTER / "README.md").is_file()  # the model card


def test_a_head_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no fitted reward"):
        load_reward_vector(tmp_path)
