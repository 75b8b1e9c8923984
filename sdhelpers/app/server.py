"""Start the app: for this computer alone, unless it is told to listen to others. Built in chapter 20."""

import os
import sys
from pathlib import Path

from sdhelpers.app.guide import ROUTES
from sdhelpers.app.pictures import MOST_BYTES
from sdhelpers.app.studio import Studio
from sdhelpers.paths import OUTPUTS

LOOPBACK, EVERYBODY = "127.0.0.1", "0.0.0.0"


def start(studio: Studio, listen: bool = False, port: int | None = None, **options):
    """Build the page and serve it from a thread of its own; returns the page, whose `local_url` is its address.

    `options` are Gradio's for `launch`. What it takes from the environment (addresses, public links, reports to its
    makers) is set here, so that nothing is reachable or sent that was not asked for. Raises OSError for a port in use.
    """
    os.environ.setdefault("GRADIO_TEMP_DIR", str(OUTPUTS / "app-uploads"))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from sdhelpers.app.page import STYLE, build

    page = build(studio)
    page.launch(
        server_name=EVERYBODY if listen else LOOPBACK,
        server_port=port,
        share=False,
        prevent_thread_lock=True,
        allowed_paths=[str(Path(studio.folder).resolve())],
        max_file_size=MOST_BYTES,
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        footer_links=["api"],
        css=STYLE,
        app_kwargs={"routes": list(ROUTES)},
        **{"quiet": True, "inline": False} | options,
    )
    return page


def serve(tier: str = "pocket", listen: bool = False, port: int | None = None, show: bool = False) -> int:
    """The command `python -m sdhelpers app`: serve until Ctrl-C."""
    from sdhelpers.models import ModelError

    studio = Studio(tier)
    try:
        print("Loading the model ...", flush=True)
        studio.shared("text")
        page = start(studio, listen, port, inbrowser=show)
    except (ModelError, OSError) as error:
        print(error, file=sys.stderr)
        studio.close()
        return 1
    print(f"The app is at {page.local_url} (Ctrl-C ends it); pictures are kept in {studio.folder}.")
    if listen:
        print("It listens to every computer that reaches this one, and asks nobody for a password.")
    try:
        page.block_thread()
    finally:
        studio.close()
    return 0
