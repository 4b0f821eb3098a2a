"""Draw graphs of tasks: as a text tree, for Mermaid and Graphviz, and as SVG."""
