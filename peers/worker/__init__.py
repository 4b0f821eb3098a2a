"""The child process that runs user code. Its death costs no lease: its peer holds them."""
