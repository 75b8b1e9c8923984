"""What the panels of all chapters share: pictures for the browser, and one line that says what went wrong."""

import html
import io
from collections.abc import Callable

import ipywidgets as ui
from PIL import Image


def to_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


BLANK = to_png(Image.new("RGB", (8, 8), (238, 238, 238)))  # what stands there before the first picture


class Panel(ui.VBox):
    """A panel with a line for messages, `message`, which a subclass sets and puts where it belongs.

    `sentences` are the errors whose text is a sentence for the reader; of all others the kind is named too.
    """

    sentences: tuple[type[Exception], ...] = ()
    message: ui.HTML

    def say(self, text: str) -> None:
        """Write into the message line, in orange; the text may come from strangers."""
        self.message.value = f'<span style="color:#b35900">{html.escape(text)}</span>'

    def say_error(self, error: Exception) -> None:
        self.say(str(error) if isinstance(error, self.sentences) else f"{type(error).__name__}: {error}")

    def attempt(self, action: Callable[[], None], button: ui.Button | None = None) -> None:
        """Do it, with the button out of use meanwhile; whatever fails is said in the message line."""
        self.message.value = ""
        if button:
            button.disabled = True
        try:
            action()
        except Exception as error:
            self.say_error(error)
        finally:
            if button:
                button.disabled = False
