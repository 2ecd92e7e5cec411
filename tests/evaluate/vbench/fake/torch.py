"""As much of torch as VBench's caller needs: a second torch would take seconds to import."""


def device(name):
    return name
