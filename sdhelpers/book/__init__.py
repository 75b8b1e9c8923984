"""The book itself: run, store and link its chapters, and the environment that they run in."""
