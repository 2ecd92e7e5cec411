from flc.models.hunyuan import HunyuanAdapter
from flc.models.wan import WanAdapter


class Stranger(HunyuanAdapter):
    @classmethod
    def recognises(cls, index, transformer):
        return True


class Extending(WanAdapter):
    pass
