"""find_model: a model's name to a folder on this machine.

    1  a local folder      ~/internlm2-chat-1_8b, or a link to one in a shared folder; ~ is expanded
    2  a bundled model     tiny-chat
    3  ModelScope          org/name, and only if downloading is allowed
    4  Hugging Face        the same name

Before them all: dummy:internlm2-1_8b, a bundled config whose weights are drawn when it is loaded.

A download keeps to weights in safetensors, JSON and tokenizer files: neither pickles nor code come along. It resumes
where it was interrupted and shows its progress. A hub that does not answer within seconds counts as out of reach. The
error says what was tried, why each failed, and how to get the model by hand.

Lesson: 1 (getting a model)
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from lmcourse.bundled import bundled_names, dummy_path, model_path
from lmcourse.errors import CheckpointError, ModelNotFoundError
from lmcourse.text.download import HUBS, Hub, Refusal
from lmcourse.text.files import is_lfs_pointer, read_json_object

__all__ = ["COURSE_MODEL", "course_model", "find_model"]

COURSE_MODEL = "tiny-chat"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BY_HAND = (
    "by hand: download the model on a machine that can and copy its folder here, or link one that is shared, as on a "
    "class machine: ln -s ~/share/new_models/Shanghai_AI_Laboratory/internlm2-chat-1_8b ~/"
)


def course_model() -> str:
    """The model that the course uses where none is named: environment variable LMCOURSE_MODEL, or else tiny-chat."""
    return os.environ.get("LMCOURSE_MODEL", "").strip() or COURSE_MODEL


def find_model(
    name: str | os.PathLike[str],
    *,
    download: bool = True,
    revision: str | None = None,
    download_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The folder of a model; ModelNotFoundError, or CheckpointError for a folder that holds no usable model.

    revision is a hub's branch, tag or commit; download_dir takes the place of the hub's own cache.
    """
    text, path = _as_path(name)
    if folder := dummy_path(text):
        return folder
    if text.strip() and os.path.lexists(path):
        return _checked(path)
    if text in bundled_names():
        return model_path(text)
    tried = [f"local folder: {_why_no_folder(path)}", f"bundled model: {_why_not_bundled(text)}"]
    for hub in HUBS:
        answer = _ask(hub, text, download=download, revision=revision, download_dir=download_dir)
        if isinstance(answer, Path):
            return _checked(answer)
        tried.append(f"{hub.name}: {answer.reason}")
    raise _not_found(text, tried)


def _as_path(name: object) -> tuple[str, Path]:
    try:
        text = os.fspath(name)  # type: ignore[call-overload]
        return str(text), Path(text).expanduser()
    except (TypeError, RuntimeError) as error:  # RuntimeError: ~name of a user who does not exist
        raise ModelNotFoundError(
            "a model is named by a text or a path",
            expected=f"a str such as {COURSE_MODEL!r} or '~/internlm2-chat-1_8b', or a Path",
            got=f"{name!r}; {error}",
            next_step="give the model's folder, or a bundled name",
        ) from error


def _ask(
    hub: Hub, name: str, *, download: bool, revision: str | None, download_dir: str | os.PathLike[str] | None
) -> Path | Refusal:
    if not _HUB_NAME.fullmatch(name):
        return Refusal("not asked, since hub names have the form org/name")
    if not download:
        return Refusal("not asked, since downloading was not allowed")
    return hub.fetch(name, revision, Path(download_dir).expanduser() if download_dir else None)


def _why_no_folder(path: Path) -> str:
    try:
        names = os.listdir(path.parent)
    except FileNotFoundError:
        return f"nothing at {path}"
    except (OSError, ValueError) as error:
        return f"{path.parent} cannot be looked into ({getattr(error, 'strerror', None) or error})"
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"nothing at {path.absolute()}" + (f"; there is {near[0]!r}" if near else "")


def _why_not_bundled(name: str) -> str:
    near = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), bundled_names(), n=1, cutoff=0.5)
    known = ", ".join(bundled_names()) or "none"
    return f"the bundled models are {known}" + (f"; did you mean {near[0]!r}?" if near else "")


def _not_found(name: str, tried: list[str]) -> ModelNotFoundError:
    rows = "".join(f"\n    {i}. {row}" for i, row in enumerate(tried, start=1))
    return ModelNotFoundError(
        f"no model was found for {name[:80]!r}",
        expected="a model's folder, a bundled name, or a hub name such as Shanghai_AI_Laboratory/internlm2-chat-1_8b",
        got=repr(name[:80]) + ("..." if len(name) > 80 else ""),
        where=f"tried in this order:{rows}",
        next_step=f"check the spelling; {_BY_HAND}",
    )


def _checked(folder: Path) -> Path:
    """The folder if it can be a model's; each way in which it cannot has its own message and cure."""
    if folder.is_symlink() and not folder.exists():
        raise ModelNotFoundError(
            "the model's link leads nowhere",
            expected="a link to a folder",
            got=f"a link to {os.readlink(folder)}, which does not exist",
            where=folder,
            next_step=f"remove it (rm {folder}) and link again; {_BY_HAND}",
        )
    if not folder.is_dir():
        raise CheckpointError(
            "the model's path is a file",
            expected="the folder that holds config.json and the weights",
            got=f"a file of {folder.stat().st_size} bytes",
            where=folder,
            next_step=f"give the folder it is in: {folder.absolute().parent}",
        )
    names = _names(folder)
    _check_not_empty(folder, names)
    _check_no_pointers(folder, names)
    return folder


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except PermissionError as error:
        raise CheckpointError(
            "the model's folder may not be read",
            expected="read permission",
            got=str(error),
            where=folder,
            next_step="ask its owner for access, or copy the model to a folder of your own",
        ) from error


def _check_not_empty(folder: Path, names: list[str]) -> None:
    if not names:
        raise CheckpointError(
            "the model's folder is empty",
            expected="config.json, a tokenizer and weights",
            got="no files",
            where=folder,
            next_step="copy the model into it; a clone or download may have been interrupted",
        )
    if "adapter_config.json" in names:
        raise _adapter(folder, complete="config.json" in names)
    if "config.json" not in names:
        inner = [name for name in names if (folder / name / "config.json").is_file()]
        raise CheckpointError(
            "the model's folder has no config.json",
            expected="config.json beside the weights",
            got=", ".join(names[:12]) + (", ..." if len(names) > 12 else ""),
            where=folder,
            next_step=f"give {folder / inner[0]}" if inner else "copy config.json from where the model was published",
        )


def _adapter(folder: Path, *, complete: bool) -> CheckpointError:
    """What a fine-tuning run leaves behind (peft's layout): next to nothing without the model it was trained on."""
    base = read_json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    return CheckpointError(
        "the folder holds a LoRA adapter, and the engine would run without it"
        if complete
        else "the folder holds a LoRA adapter, which is no model by itself",
        expected="a model whose adapter was merged into its weights",
        got=f"adapter_config.json, for {base or 'a model that it does not name'}",
        where=folder,
        next_step="merge it where peft is installed: AutoPeftModelForCausalLM.from_pretrained(folder)"
        ".merge_and_unload().save_pretrained(merged); then give the merged folder"
        + (", or move adapter_config.json away to run the model alone" if complete else ""),
    )


def _check_no_pointers(folder: Path, names: list[str]) -> None:
    endings = (".safetensors", ".bin", ".model", ".json")
    pointers = [name for name in names if name.endswith(endings) and is_lfs_pointer(folder / name)]
    if pointers:
        raise CheckpointError(
            "the model's files are git-lfs pointers, not the files themselves",
            expected="weights",
            got=f"{len(pointers)} pointers: {', '.join(pointers[:4])}",
            where=folder,
            next_step=f"install git-lfs, then run `git lfs pull` in {folder}",
        )
