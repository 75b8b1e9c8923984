"""Which section of the book explains which control, and these sections as pages that need no network.

Built in chapter 20.
"""

import functools
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from sdhelpers.book import chapters
from sdhelpers.book.address import kept as repository_address

EXPLAINED = {
    "prompt": (17, "What makes a good prompt"),
    "negative_prompt": (3, "The negative prompt"),
    "seed": (3, "Generation seed"),
    "num_inference_steps": (7, "Fewer steps"),
    "guidance_scale": (3, "Guidance scale"),
    "scheduler": (3, "Sampling scheduler"),
    "size": (5, "Latent space"),
    "lora": (8, "Weights"),
    "preview": (5, "Watching it happen"),
    "strength": (5, "Image-to-image by hand"),
    "mask": (1, "Move 3: paint the background anew"),
    "thresholds": (13, "Canny's edges, their gradient by hand"),
    "controlnet_conditioning_scale": (13, "The scale"),
    "file": (19, "Draw it again"),
}


def anchor(heading: str) -> str:
    """A heading's name in a chapter's page, as in JupyterLab."""
    return quote(heading.replace(" ", "-"), safe="")


def address(control: str) -> str:
    """Where the section that explains a control is found in the app."""
    chapter, heading = EXPLAINED[control]
    return f"/chapters/{chapter}#{anchor(heading)}"


def link(control: str) -> str:
    """A link to the section that explains a control, as HTML."""
    chapter, heading = EXPLAINED[control]
    return f'<a href="{address(control)}" target="_blank">chapter {chapter}: {heading}</a>'


def note(control: str) -> str:
    """The same in Markdown, as Gradio wants it below a field's label."""
    chapter, heading = EXPLAINED[control]
    return f"[chapter {chapter}: {heading}]({address(control)})"


@functools.cache
def page_of(chapter: int) -> str:
    """A stored chapter as HTML. Raises ChapterError for one that is not written."""
    from sdhelpers.book.page import page  # nbconvert, which not every installation has

    return page(chapters.path_of(chapter))


def show_chapter(request: Request) -> Response:
    """The page of a chapter, or where nbconvert is missing the notebook in the repository."""
    chapter = request.path_params["number"]
    try:
        return HTMLResponse(page_of(chapter))
    except chapters.ChapterError as error:
        return PlainTextResponse(str(error), 404)
    except ImportError:
        return RedirectResponse(f"{repository_address()}/blob/main/notebooks/{chapters.file_name(chapter)}")


ROUTES = [Route("/chapters/{number:int}", show_chapter)]
