"""JSON parameters to the values of a request, and the JSON Schema that describes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from zeep import xsd

from agent import values
from agent.connectors.soap.facets import Facets
from agent.connectors.soap.fields import Alternatives, Field, choices_of, fields_of, is_complex
from agent.connectors.soap.types import builtin, for_zeep, param
from agent.errors import ParametersInvalid
from agent.parameters import MAX_PROBLEMS, show
from agent.value_schema import value_schema

_Inside = tuple[Mapping[str, Field], tuple[Alternatives, ...]]  # of an object: its fields by name, and choices

_NO_TYPE: Final = frozenset({"anyType", "anySimpleType"})


class RequestShape:
    """
    What the request of one operation must be.

    Args:
        element: the WSDL's request element, or ``None`` where it has none.
        facets: of the simple types, as ``facets.facets_of`` gives them.
    """

    def __init__(self, element: Any, facets: Mapping[str, Facets]) -> None:
        self._facets = facets
        self._type = element.type if element is not None else None
        self._name = element.name if element is not None else ""
        self._readers: dict[int, tuple[Any, values.Reader, str]] = {}  # by the type's id, and with the type: ids are
        self._insides: dict[int, tuple[Any, _Inside]] = {}  # used again
        self._names: dict[str, str] = {}  # of the schema's definitions, by the type's full name

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return ``given`` as zeep wants it.

        Args:
            given: JSON values, fractions as Decimal.

        Raises:
            ParametersInvalid: unknown or missing fields, or values that are not of their type; a line for each.
        """
        problems: list[str] = []
        found = self._object(*self._whole(), given, "", problems)
        if problems:
            more = len(problems) - MAX_PROBLEMS
            lines = problems[:MAX_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise ParametersInvalid("\n".join(lines), touched=False)
        if self._type is not None and not is_complex(self._type):
            return {"value": found.get(self._name)}
        return found

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the request."""
        definitions: dict[str, Any] = {}
        found = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **self._object_schema(self._whole()[0].values(), definitions),
        }
        if definitions:
            found["$defs"] = definitions
        return found

    def _whole(self) -> _Inside:
        if self._type is None:
            return {}, ()
        if is_complex(self._type):
            return self._inside(self._type)
        return {self._name: Field(self._name, "value", "", self._type)}, ()  # the request is one plain value

    def _inside(self, kind: Any) -> _Inside:
        known = self._insides.get(id(kind))
        if known is None:
            known = self._insides[id(kind)] = (kind, (_by_name(fields_of(kind)), choices_of(kind)))
        return known[1]

    # --- values -------------------------------------------------------------------------------------

    def _object(
        self,
        fields: Mapping[str, Field],
        choices: Sequence[Alternatives],
        given: Mapping[str, Any],
        where: str,
        problems: list[str],
    ) -> dict[str, Any]:
        for name in given:
            if name not in fields:
                there = f"the fields are {', '.join(fields)}" if fields else "there are no fields"
                problems.append(f"{where}{name[:60]}: is not in the WSDL; {there}")
        for alternatives in choices:
            together = frozenset().union(*alternatives) & given.keys()
            if not any(together <= alternative for alternative in alternatives):
                problems.append(f"{where}{', '.join(sorted(together))}: only one of these may be given")
        found: dict[str, Any] = {}
        for field in fields.values():
            if field.name in given:
                value = self._field(field, given[field.name], f"{where}{field.name}", problems)
                if value is not xsd.SkipValue:
                    found[field.key] = value
            elif field.required:
                problems.append(f"{where}{field.name}: wants {self._wants(field)}, found nothing")
        return found

    def _field(self, field: Field, value: Any, where: str, problems: list[str]) -> Any:
        if field.many:
            if not isinstance(value, list):
                problems.append(f"{where}: wants a list, found {show(value)}")
                return None
            if len(value) < field.at_least or (field.at_most is not None and len(value) > field.at_most):
                most = "any number" if field.at_most is None else field.at_most
                problems.append(f"{where}: wants {field.at_least} to {most} entries, found {len(value)}")
            return [self._one(field, item, f"{where}[{number}]", problems) for number, item in enumerate(value, 1)]
        return self._one(field, value, where, problems)

    def _one(self, field: Field, value: Any, where: str, problems: list[str]) -> Any:
        if value is None:
            if field.nillable:
                return xsd.Nil
            if field.required or field.many:
                problems.append(f"{where}: wants {self._wants(field)}, found null")
            return xsd.SkipValue
        if field.group or is_complex(field.type):
            if not isinstance(value, Mapping):
                problems.append(f"{where}: wants an object, found {show(value)}")
                return None
            inside = (_by_name(field.group), field.choices) if field.group else self._inside(field.type)
            return self._object(*inside, value, f"{where}.", problems)
        if isinstance(field.type, xsd.ListType):
            if not isinstance(value, list):
                problems.append(f"{where}: wants a list, found {show(value)}")
                return None
            item = Field(field.name, field.key, "", field.type.item_type)
            return [self._one(item, one, f"{where}[{number}]", problems) for number, one in enumerate(value, 1)]
        if builtin(field.type) in _NO_TYPE and not isinstance(value, Mapping | list):
            return _plain_text(value)
        read, wants = self._reader(field.type)
        try:
            return for_zeep(field.type, read(value))
        except ValueError:
            problems.append(f"{where}: wants {wants}, found {show(value)}")
            return None

    def _reader(self, kind: Any) -> tuple[values.Reader, str]:
        known = self._readers.get(id(kind))
        if known is None:
            wanted = param(kind, self._facets)
            known = self._readers[id(kind)] = (kind, values.reader(wanted), values.wants(wanted))
        return known[1], known[2]

    def _wants(self, field: Field) -> str:
        if field.many:
            return "a list"
        if field.group or is_complex(field.type):
            return "an object"
        return self._reader(field.type)[1]

    # --- schema -------------------------------------------------------------------------------------

    def _object_schema(self, fields: Collection[Field], definitions: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": "object",
            "properties": {field.name: self._field_schema(field, definitions) for field in fields},
        }
        if required := [field.name for field in fields if field.required]:
            found["required"] = required
        found["additionalProperties"] = False
        return found

    def _field_schema(self, field: Field, definitions: dict[str, Any]) -> dict[str, Any]:
        if field.group:
            one = self._object_schema(field.group, definitions)
        else:
            one = self._type_schema(field.type, definitions)
        if field.nillable or not (field.required or field.many):
            one = {"anyOf": [one, {"type": "null"}]}
        if not field.many:
            return one
        found: dict[str, Any] = {"type": "array", "items": one}
        if field.at_least:
            found["minItems"] = field.at_least
        if field.at_most is not None:
            found["maxItems"] = field.at_most
        return found

    def _type_schema(self, kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
        if isinstance(kind, xsd.ListType):
            return {"type": "array", "items": self._type_schema(kind.item_type, definitions)}
        if not is_complex(kind):
            if builtin(kind) in _NO_TYPE:
                return {"type": ["string", "number", "boolean"]}
            return value_schema(param(kind, self._facets))
        if kind.qname is None or not kind.is_global:
            return self._object_schema(fields_of(kind), definitions)
        # Named types go by reference: they may hold themselves.
        name = self._names.setdefault(kind.qname.text, f"{kind.qname.localname}_{len(self._names) + 1}")
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = self._object_schema(fields_of(kind), definitions)
        return {"$ref": f"#/$defs/{name}"}


def _by_name(fields: Collection[Field]) -> dict[str, Field]:
    return {field.name: field for field in fields}


def _plain_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
