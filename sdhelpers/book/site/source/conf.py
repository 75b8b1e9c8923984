"""Sphinx's settings; `sdhelpers.book.site.build` lays the notebooks beside a copy of this file and runs it there."""

from sdhelpers.book import address

project = "A companion that runs"
author = "the companion's authors"
html_title = "A companion that runs: Using Stable Diffusion with Python"
language = "en"

extensions = ["myst_nb", "sphinx_copybutton"]
exclude_patterns = []
nb_execution_mode = "off"  # the site shows the notebooks as they are stored
suppress_warnings = ["myst.header"]  # a chapter may begin with a small heading

# The notebooks link to headings as JupyterLab names them: blanks become hyphens, all else stays.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "sdhelpers.book.site.chapter.anchor"

mathjax_path = "mathjax.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}

copybutton_selector = "div:not(.output) > div.highlight > pre"

html_theme = "sphinx_book_theme"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_use_index = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "repository_url": address.kept(),
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "logo": {"text": "A companion that runs"},
    "footer_content_items": ["extra-footer.html"],
    "extra_footer": "A companion to Andrew Zhu (Shudong Zhu), <em>Using Stable Diffusion with Python</em>, Packt "
    "Publishing, 2024; not affiliated with its author or publisher. MIT licence; the drawings and CLIP's vocabulary "
    f'are by others (<a href="{address.kept()}/blob/main/NOTICE">NOTICE</a>).',
}
