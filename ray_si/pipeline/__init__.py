"""The rules of a build, without Ray: what is asked, what is kept, and what it may cost."""
