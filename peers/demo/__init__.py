"""The demo: index this machine's Python library on several peers and kill one of them halfway.

`handlers` is the app and `submit` its graph: two files to copy from. The rest runs them.
"""
