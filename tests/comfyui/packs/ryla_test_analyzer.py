"""A face analyzer that finds nothing, or fails: InsightFace is in no Python of the tests' ComfyUIs."""

from __future__ import annotations


class Failing:
    def faces(self, picture: object) -> list[object]:
        raise RuntimeError("the analyzer failed")


class Analyzer:
    CATEGORY, FUNCTION, RETURN_TYPES = "test", "make", ("RYLA_FACE_ANALYZER",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, object]:
        return {"required": {}}

    def make(self) -> tuple[Failing]:
        return (Failing(),)


NODE_CLASS_MAPPINGS = {"RylaTestAnalyzer": Analyzer}
