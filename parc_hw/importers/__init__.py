"""How does a foreign model become a Relax module that lowering takes?"""

from parc_hw.importers.torch_export import Imported, Source, import_torch, reference_values

__all__ = ["Imported", "Source", "import_torch", "reference_values"]
