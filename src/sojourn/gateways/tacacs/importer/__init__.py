"""Turn the configuration of other TACACS+ servers into ours, and say what could not be turned."""

from __future__ import annotations

from sojourn.gateways.tacacs.importer.convert import Imported, import_tac_plus
from sojourn.gateways.tacacs.importer.grammar import Unmapped

__all__ = ["Imported", "Unmapped", "import_tac_plus"]
