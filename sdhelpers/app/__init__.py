"""The drawing app of chapter 20: a page in the browser, on this computer alone unless asked otherwise.

    python -m sdhelpers app

`requests` and `pictures` check what comes in, `studio` draws, `drawing` is one picture on its way with its `preview`,
`files` saves and reads it; none of these knows Gradio. `page` is what one sees, with its `views` and its `guide` to the
chapters, `rounds` follows the drawings of all sessions, `uploads` opens what was sent, `server` starts it all.
"""
