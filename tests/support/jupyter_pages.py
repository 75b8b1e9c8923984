"""What the browser tests do in a page of JupyterLab or of Notebook 7."""


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
