"""Commands for the administrator at the server's machine that are not about starting it."""
