"""The plugin %NAME%. Each hook is a class with a function of the same name.

`componentize-py -d wit -w plugin bindings .` writes `wit_world` for your editor; the build does without it.
"""

%IMPORTS%
