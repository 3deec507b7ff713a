"""deepcoro: video-language models of coronary angiography and echo, from cine files to an honest report."""

from typing import Any

__version__ = "0.1.0"


def load(source: Any, **settings: Any) -> Any:
    """A trained model in one line: `deepcoro.load("FOLDER").embed(["one.dcm", "two.dcm"])`.

    `source`: a folder of tools/export_model.py, a run folder, or `hf://ORGANISATION/NAME`; settings as of
    `deepcoro.sharing.loaded.LoadedModel` (`device="cuda"`, `modality="US"`, ...). docs/sharing.md has the rest.
    """
    from deepcoro.sharing.loaded import load as load_model  # torch is imported where it is used

    return load_model(source, **settings)
