"""Whether the Hugging Face hub gives something, asked without downloading it.

why, info = ask_hub(lambda hub: hub.dataset_info("lmms-lab/POPE", timeout=SECONDS))    # why is "" where it does
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from support.errors import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SECONDS: Final = 10
"""In which the hub must answer."""


def ask_hub(ask: "Callable[[HfApi], Any]") -> tuple[str, Any]:
    """Why the hub does not give what is asked for, and what it says of it; "" and its answer if it does."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        return "", ask(HfApi())
    except GatedRepoError:
        return "it is gated for you: accept its terms on its page and set HF_TOKEN", None
    except RepositoryNotFoundError:
        return "it is not there, or not for you", None
    except OfflineModeIsEnabled:
        return "it is not in the hub's cache (HF_HOME), and HF_HUB_OFFLINE is set", None
    except HfHubHTTPError as error:
        answer = f"{error.response.status_code} {error.response.reason_phrase}"
        return f"it is not in the hub's cache (HF_HOME), and the hub answers {answer}", None
    except (OSError, HTTPError) as error:
        return f"it is not in the hub's cache (HF_HOME), and the hub can't be reached ({first_line(error)})", None
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, RecursionError):
        return "it is not in the hub's cache (HF_HOME), and what answers is no hub", None


def why_no_dataset(name: str, revision: str | None) -> str:
    """Why a dataset can't be had from the hub; "" if it can, or is in the cache. It is not downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    try:
        snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        return ""
    except IncompleteSnapshotError:
        return ""
    except (OSError, ValueError):
        return ask_hub(lambda hub: hub.dataset_info(name, revision=revision, timeout=SECONDS))[0]
