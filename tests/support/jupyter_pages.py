"""JupyterLab for a real browser, and what the browser tests do in its pages or in those of Notebook 7."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
WITH_WEBGL = [f for f in FLAGS if f != "--disable-gpu"] + ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@contextmanager
def jupyter_lab(folder: Path, config: Path) -> Iterator[str]:
    """JupyterLab on a folder of notebooks, its settings and log in `config`; gives its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--allow-root", "--expose-app-in-browser",
               "--JupyterNotebookApp.expose_app_in_browser=True",
               "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    # All cells stay in the page, however far one has scrolled, and no question about news covers them.
    for name, setting in {
        "notebook-extension/tracker": '{"windowingMode": "none"}',
        "apputils-extension/notification": '{"fetchNews": "false"}',
    }.items():
        path = config / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(setting, encoding="utf-8")
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(config / "config"), "JUPYTER_DATA_DIR": str(config / "data"),
           "JUPYTERLAB_SETTINGS_DIR": str(config / "settings"), "HF_HUB_OFFLINE": "1"}  # fmt: skip
    with open(config / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (config / "lab.log").read_text(encoding="utf-8")
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def write_cell(path: Path, source: str) -> None:
    """A notebook of one cell."""
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=metadata), path)


def run_all_cells(page) -> None:
    """Run All Cells, once the kernel answers: earlier, JupyterLab would ask which one to take."""
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext", timeout=120_000)
    kernel = page.evaluate(
        """async () => {
            const context = window.jupyterapp.shell.currentWidget.sessionContext;
            const late = new Promise((_, reject) => setTimeout(() => reject(new Error("no kernel")), 120000));
            await Promise.race([context.ready, late]);
            return context.session?.kernel && (await context.session.kernel.info).implementation;
        }"""
    )
    assert kernel == "ipython", "the notebook has a kernel that answers"
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.locator(".jp-InputPrompt", has_text="[*]").first.wait_for(timeout=60_000, state="attached")


def wait_until_idle(page) -> None:
    """Until no cell waits or runs any more."""
    page.wait_for_function(
        """() => ![...document.querySelectorAll('.jp-InputPrompt')].some(prompt => prompt.innerText.includes('*'))""",
        timeout=600_000,
    )
