"""Selects rows of a catalog by an expression on its columns."""

import ast
import difflib
import math
import operator
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import ConfigurationError

__all__ = ["check_columns", "column_ranges", "expression_columns", "matching_rows"]

_COMPARISONS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_MIRRORED: Mapping[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.Gt(),
    ast.LtE: ast.GtE(),
    ast.Gt: ast.Lt(),
    ast.GtE: ast.LtE(),
    ast.In: ast.NotIn(),
}
"""The comparison with its sides exchanged; a constant in a column says nothing."""

_ARITHMETIC: Mapping[type[ast.operator], str] = {
    ast.Add: "add_checked",
    ast.Sub: "subtract_checked",
    ast.Mult: "multiply_checked",
    ast.Div: "divide",
    ast.Pow: "power_checked",
}
_FUNCTIONS = {"abs": "abs_checked", "sqrt": "sqrt", "log10": "log10", "exp": "exp", "floor": "floor"}
"""Functions that an expression may call, with their Arrow names."""

_EXACT = pa.decimal256(20, 0)
"""Type that holds every signed and unsigned 64-bit integer; Arrow gives sums and products more digits."""

_TYPES: Mapping[type, pa.DataType] = {int: pa.int64(), float: pa.float64()}
"""Arrow types of constants."""

_SYNTAX = (
    "compare columns with numbers and strings, and combine comparisons with and, or, not, such as: "
    "mag_i < 23 and kind in ('lens', 'galaxy')"
)


def expression_columns(expression: str) -> tuple[str, ...]:
    """Return the names of the columns in an expression, in order of appearance.

    Raises
    ------
    ConfigurationError
        If the expression has a syntax error or an operation that is not allowed.
    """
    tree = _parse(expression)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    return tuple(dict.fromkeys(node.id for node in sorted(names, key=lambda n: (n.lineno, n.col_offset))))


def check_columns(expression: str, known: Collection[str]) -> None:
    """Raise `ConfigurationError` if an expression names a column that is not known."""
    unknown = [name for name in expression_columns(expression) if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"the columns are: {', '.join(known) or 'none'}"
        raise ConfigurationError(
            f"{expression!r} uses the column {unknown[0]!r}, which the catalog does not have; {hint}"
        )


def column_ranges(expression: str) -> dict[str, list[tuple[Any, Any]]]:
    """Return ranges ``(low, high)`` that columns must lie in for an expression to be true, ends included, by column name.

    They come from the comparisons of a column with a constant that must all be true; there can be none.
    """
    ranges: dict[str, list[tuple[Any, Any]]] = {}
    nodes = [_parse(expression).body]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            nodes += node.values
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, how, right in zip(sides, node.ops, sides[1:], strict=False):
                if isinstance(left, ast.Name):
                    ranges.setdefault(left.id, []).extend(_range(how, right))
                elif isinstance(right, ast.Name):
                    ranges.setdefault(right.id, []).extend(_range(_MIRRORED.get(type(how), how), left))
    return ranges


def _range(how: ast.cmpop, constant: ast.expr) -> list[tuple[Any, Any]]:
    """Return the range of a column that is compared with a constant; no range if it is not a constant."""
    try:
        value = ast.literal_eval(constant)
        low, high = (min(value), max(value)) if isinstance(how, ast.In) else (value, value)
    except (ValueError, TypeError):
        return []
    least: Any = "" if isinstance(low, str) else -math.inf
    if isinstance(how, ast.Lt | ast.LtE):
        return [(least, high)]
    if isinstance(how, ast.Gt | ast.GtE):
        return [] if isinstance(low, str) else [(low, math.inf)]
    return [(low, high)] if isinstance(how, ast.Eq | ast.In) else []


def matching_rows(expression: str, columns: Mapping[str, Any], count: int) -> NDArray[np.bool_]:
    """Return a bool mask ``(count,)`` of the rows for which an expression is true.

    A comparison with a missing value or NaN is not true.

    Parameters
    ----------
    expression
        In Python syntax: comparisons (also chained, and ``in``), ``and``, ``or``, ``not``, ``+ - * / **`` and the
        functions ``abs``, ``sqrt``, ``log10``, ``exp``, ``floor`` of columns, numbers and strings. Arrow evaluates it:
        integers as 64-bit integers and floats as float64, whatever the type of the column.
    columns
        Values ``(count,)`` by column name; missing ones are masked, or None among strings.

    Raises
    ------
    ConfigurationError
        If the expression has a syntax error or an operation that is not allowed, names an unknown column, compares
        types that cannot be compared, or exceeds the range of 64-bit integers.
    """
    names = expression_columns(expression)
    check_columns(expression, columns)
    try:
        table = {name: pa.array(_as_64_bit(name, columns[name]), from_pandas=True) for name in names}
        exact = any(pa.types.is_uint64(column.type) for column in table.values())
        if exact:  # uint64 values: decimals hold every 64-bit integer and the results of arithmetic with them
            table = {n: c.cast(_EXACT) if pa.types.is_integer(c.type) else c for n, c in table.items()}
        rows = pa.table({**table, "": pa.array(np.arange(count))})
        found = rows.filter(_ArrowBuilder(expression, rows.schema, exact=exact).build(_parse(expression).body))[""]
    except pa.ArrowException as error:
        hint = "; multiply by 1.0 first to compute with floats" if "overflow" in str(error) else ""
        raise ConfigurationError(f"{expression!r} cannot be evaluated: {error}{hint}") from error
    mask = np.zeros(count, bool)
    mask[found.to_numpy()] = True
    return mask


def _as_64_bit(name: str, values: Any) -> Any:
    """Return a column in 64 bits, since smaller types overflow silently; uint64 only if a value needs it."""
    if not isinstance(values, np.ndarray):
        return values
    if values.ndim > 1:
        raise ConfigurationError(
            f"column {name!r} contains arrays, which an expression cannot compare; use a column with one value per row"
        )
    if values.dtype.kind == "f":
        return values.astype(np.float64, copy=False)
    if values.dtype.kind in "iu" and int(np.ma.filled(values, 0).max(initial=0)) <= np.iinfo(np.int64).max:
        return values.astype(np.int64, copy=False)
    return values


def _beyond_int64(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _parse(expression: str) -> ast.Expression:
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        position = getattr(error, "offset", None) or 1
        message = f"{expression!r} has a syntax error at character {position}; {_SYNTAX}"
        raise ConfigurationError(message) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and not isinstance(node, tuple(_ArrowBuilder.KINDS)):
            raise _not_allowed(expression, node)
    return tree


def _not_allowed(expression: str, node: ast.AST, why: str = "") -> ConfigurationError:
    text = ast.get_source_segment(expression.strip(), node) or type(node).__name__
    return ConfigurationError(f"{expression!r} is not allowed: {text!r} {why or 'is not supported here'}; {_SYNTAX}")


class _ArrowBuilder:
    """Builds an Arrow expression from a Python syntax tree."""

    KINDS: Mapping[type[ast.expr], str] = {
        ast.BoolOp: "_bool",
        ast.BinOp: "_binary",
        ast.UnaryOp: "_unary",
        ast.Compare: "_compare",
        ast.Call: "_call",
        ast.Name: "_name",
        ast.Constant: "_constant",
        ast.Tuple: "_values",
        ast.List: "_values",
        ast.Set: "_values",
    }

    def __init__(self, expression: str, schema: pa.Schema, *, exact: bool) -> None:
        import pyarrow.compute as pc

        self._expression, self._schema, self._pc, self._exact = expression, schema, pc, exact

    def build(self, node: ast.expr) -> Any:
        """Return the Arrow expression of a node."""
        translate: Callable[[Any], Any] = getattr(self, self.KINDS[type(node)])
        return translate(node)

    def _function(self, name: str, *arguments: ast.expr) -> Any:
        values = [self.build(argument) for argument in arguments]
        kinds = [self._kind(argument) for argument in arguments]
        if set(kinds) == {"integer", "float"}:  # Arrow raises for integers above 2**53 here
            pairs = zip(values, kinds, strict=True)
            values = [v.cast("float64", safe=False) if kind == "integer" else v for v, kind in pairs]
        return getattr(self._pc, name)(*values)

    def _kind(self, node: ast.expr) -> str:
        """Return "integer" or "float" for a node of such a type, an empty string for any other."""
        if isinstance(node, ast.Name | ast.Constant):
            kind = self._schema.field(node.id).type if isinstance(node, ast.Name) else _TYPES.get(type(node.value))
            if kind is None:
                return ""
            whole = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
            return "integer" if whole else "float" if pa.types.is_floating(kind) else ""
        if isinstance(node, ast.UnaryOp):
            return self._kind(node.operand)
        if isinstance(node, ast.BinOp):
            kinds = {self._kind(node.left), self._kind(node.right)}
            return "float" if isinstance(node.op, ast.Div) or "float" in kinds else "integer"
        if isinstance(node, ast.Call):
            whole = isinstance(node.func, ast.Name) and node.func.id == "abs" and len(node.args) == 1
            return self._kind(node.args[0]) if whole else "float"
        return ""

    def _bool(self, node: ast.BoolOp) -> Any:
        first, *rest = (self.build(value) for value in node.values)
        for other in rest:
            first = first & other if isinstance(node.op, ast.And) else first | other
        return first

    def _binary(self, node: ast.BinOp) -> Any:
        name = _ARITHMETIC.get(type(node.op))
        if name is None:
            why = "uses & or |; use and, or instead" if isinstance(node.op, ast.BitAnd | ast.BitOr) else ""
            raise _not_allowed(self._expression, node, why)
        if name == "divide":  # as in Python, also of two integers
            left, right = (self.build(side).cast("float64", safe=False) for side in (node.left, node.right))
            return left / right
        return self._function(name, node.left, node.right)

    def _unary(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return ~self.build(node.operand)
        if isinstance(node.op, ast.USub):
            return self._function("negate_checked", node.operand)
        raise _not_allowed(self._expression, node)

    def _compare(self, node: ast.Compare) -> Any:
        left, result = node.left, None
        for how, right in zip(node.ops, node.comparators, strict=True):
            one = self._one_comparison(left, how, right)
            result, left = one if result is None else result & one, right
        return result

    def _one_comparison(self, left: ast.expr, how: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(how, ast.In | ast.NotIn):
            values = self.build(right)
            if not isinstance(values, list):
                raise _not_allowed(self._expression, right, "must be a list of values")
            column = self.build(left)
            if self._exact and values:  # `isin` needs a column of exactly the type of its values
                found = reduce(operator.or_, (self._pc.equal(column, self._scalar(value)) for value in values))
                return found if isinstance(how, ast.In) else ~found
            # For Arrow a missing value is in no list, so `not in` would be true for it.
            within = [value for value in values if not _beyond_int64(value)]
            found = self._pc.if_else(column.is_valid(), column.isin(within), self._pc.scalar(None))
            return found if isinstance(how, ast.In) else ~found
        name = _COMPARISONS.get(type(how))
        if name is None:
            raise _not_allowed(self._expression, left, "is compared with `is`; use == instead")
        return self._function(name, left, right)

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS or node.keywords or len(node.args) != 1:
            raise _not_allowed(self._expression, node, f"is not one of the functions {', '.join(_FUNCTIONS)}")
        return self._function(_FUNCTIONS[name], node.args[0])

    def _name(self, node: ast.Name) -> Any:
        return self._pc.field(node.id)

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, bool | int | float | str):
            raise _not_allowed(self._expression, node)
        return self._scalar(node.value)

    def _scalar(self, value: bool | float | str) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and self._exact and -(10**20) < value < 10**20:  # type: ignore[operator]
            return self._pc.scalar(pa.scalar(Decimal(value), _EXACT))
        if whole and _beyond_int64(value):
            return self._pc.scalar(Decimal(value))
        scalar = self._pc.scalar(value)
        # Arrow gives a literal the smallest type that fits and would compute in float32 or 8 bits.
        return scalar.cast("int64" if whole else "float64") if whole or isinstance(value, float) else scalar

    def _values(self, node: ast.Tuple | ast.List | ast.Set) -> list[Any]:
        return [ast.literal_eval(value) for value in node.elts]
