"""The book as a static site, made by Sphinx from the stored notebooks: `python -m sdhelpers site`. Nothing is run."""

from sdhelpers.book.site.build import SiteError, build
