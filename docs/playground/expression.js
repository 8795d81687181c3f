// Expressions in x, such as "x * sigmoid(1.702 * x)", as functions of a number: the grammar and the
// names of kat/nn/fitting/targets.py. The text is parsed here, and never run as JavaScript.
//
//   sum     = product (("+" | "-") product)*
//   product = signed (("*" | "/") signed)*
//   signed  = ("+" | "-") signed | power
//   power   = atom ("**" signed)?
//   atom    = number | name | name "(" sum ("," sum)* ")" | "(" sum ")"

const LONGEST = 1000;
const DEEPEST = 200;

/** 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. */
function erf(x) {
  return Math.abs(x) < 2 ? erfSeries(x) : x < 0 ? erfcTail(-x) - 1 : 1 - erfcTail(x);
}

/** 1 - erf(x), without cancellation for large x. */
function erfc(x) {
  return x < 2 ? 1 - erf(x) : erfcTail(x);
}

/** 2 / sqrt(pi) exp(-x^2) sum_n 2^n x^(2n + 1) / (1 3 5 .. (2n + 1)). */
function erfSeries(x) {
  let term = x;
  let sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** erfc(x) for x >= 2: exp(-x^2) / sqrt(pi) over x + (1/2) / (x + 1 / (x + (3/2) / (x + ...))). */
function erfcTail(x) {
  let fraction = x;
  for (let k = 60; k >= 1; k--) fraction = x + k / 2 / fraction;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const silu = (x) => x * sigmoid(x);

/** The named activations of kat/nn/functions.py. */
export const FUNCTIONS = {
  identity: (x) => x,
  silu,
  swish: silu,
  gelu: (x) => 0.5 * x * erfc(-x / Math.SQRT2),
  gelu_tanh: (x) => x * sigmoid(2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)),
  quick_gelu: (x) => x * sigmoid(1.702 * x),
  relu: (x) => Math.max(x, 0),
  leaky_relu: (x) => Math.max(x, 0.01 * x),
  tanh: Math.tanh,
  sigmoid,
  mish: (x) => x * Math.tanh(softplus(x)),
  softplus,
};
const ONE_ARGUMENT = {
  ...FUNCTIONS,
  abs: Math.abs, sign: Math.sign, sqrt: Math.sqrt, exp: Math.exp, expm1: Math.expm1,
  log: Math.log, log1p: Math.log1p, sin: Math.sin, cos: Math.cos, tan: Math.tan, atan: Math.atan,
  sinh: Math.sinh, cosh: Math.cosh, erf, erfc,
};
const TWO_ARGUMENTS = { max: Math.max, min: Math.min };
const CONSTANTS = { pi: Math.PI, e: Math.E };
const OPERATORS = {
  "+": (a, b) => a + b,
  "-": (a, b) => a - b,
  "*": (a, b) => a * b,
  "/": (a, b) => a / b,
  "**": (a, b) => a ** b,
};
const TOKEN = /\s*(?:((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|[-+*/(),]))/y;

/** What a reader is told about a text that is no expression. */
export class ExpressionError extends Error {}

/** The function of x that an expression, or the name of an activation alone, defines. */
export function parseExpression(text) {
  const name = text.trim();
  if (Object.hasOwn(FUNCTIONS, name)) return FUNCTIONS[name];
  if (text.length > LONGEST) throw new ExpressionError(`An expression has at most ${LONGEST} characters.`);
  return new Parser(tokens(text)).parse();
}

function tokens(text) {
  const found = [];
  TOKEN.lastIndex = 0;
  while (text.slice(TOKEN.lastIndex).trim()) {
    const at = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) {
      const character = text.slice(at).trim()[0];
      const hint = character === "^" ? "; write ** for a power" : "";
      throw new ExpressionError(`“${character}” is not supported${hint}.`);
    }
    const [, number, name, symbol] = match;
    found.push({ number, name, symbol, text: number ?? name ?? symbol });
  }
  return found;
}

class Parser {
  constructor(list) {
    this.list = list;
    this.at = 0;
    this.depth = 0;
  }

  parse() {
    if (!this.list.length) throw new ExpressionError("Type a function of x.");
    const result = this.sum();
    if (this.at < this.list.length) {
      throw new ExpressionError(`“${this.list[this.at].text}” is not expected there.`);
    }
    return result;
  }

  /** Steps over one of these symbols, and returns it; null if another token is next. */
  take(...symbols) {
    const symbol = this.list[this.at]?.symbol;
    if (!symbols.includes(symbol)) return null;
    this.at++;
    return symbol;
  }

  need(symbol) {
    if (!this.take(symbol)) {
      const found = this.list[this.at]?.text;
      throw new ExpressionError(`“${symbol}” is missing ${found ? `before “${found}”` : "at the end"}.`);
    }
  }

  sum() {
    if (++this.depth > DEEPEST) throw new ExpressionError("The expression is nested too deeply.");
    const result = this.chain(() => this.product(), "+", "-");
    this.depth--;
    return result;
  }

  product() {
    return this.chain(() => this.signed(), "*", "/");
  }

  chain(part, ...symbols) {
    let left = part();
    for (let symbol = this.take(...symbols); symbol; symbol = this.take(...symbols)) {
      left = combined(OPERATORS[symbol], left, part());
    }
    return left;
  }

  signed() {
    const sign = this.take("+", "-");
    if (!sign) return this.power();
    if (++this.depth > DEEPEST) throw new ExpressionError("The expression is nested too deeply.");
    const operand = this.signed();
    this.depth--;
    return sign === "-" ? (x) => -operand(x) : operand;
  }

  power() {
    const base = this.atom();
    return this.take("**") ? combined(OPERATORS["**"], base, this.signed()) : base;
  }

  atom() {
    if (this.take("(")) {
      const inside = this.sum();
      this.need(")");
      return inside;
    }
    const token = this.list[this.at++];
    if (token?.number) return constant(Number(token.number));
    if (token?.name) return this.take("(") ? this.call(token.name) : named(token.name);
    throw new ExpressionError(
      token ? `“${token.text}” is not expected there.` : "The expression ends too early.",
    );
  }

  call(name) {
    const list = [this.sum()];
    while (this.take(",")) list.push(this.sum());
    this.need(")");
    const wanted = Object.hasOwn(ONE_ARGUMENT, name) ? 1 : 2;
    if (wanted === 2 && !Object.hasOwn(TWO_ARGUMENTS, name)) {
      throw new ExpressionError(`There is no function “${name}”.`);
    }
    if (list.length !== wanted) {
      throw new ExpressionError(`${name} takes ${wanted} argument${wanted > 1 ? "s" : ""}.`);
    }
    if (wanted === 2) return combined(TWO_ARGUMENTS[name], ...list);
    return (x) => ONE_ARGUMENT[name](list[0](x));
  }
}

const combined = (operation, left, right) => (x) => operation(left(x), right(x));
const constant = (number) => () => number;

function named(name) {
  if (name === "x") return (x) => x;
  if (Object.hasOwn(CONSTANTS, name)) return constant(CONSTANTS[name]);
  if (Object.hasOwn(ONE_ARGUMENT, name) || Object.hasOwn(TWO_ARGUMENTS, name)) {
    throw new ExpressionError(`${name} needs an argument: ${name}(x).`);
  }
  throw new ExpressionError(`“${name}” is unknown; the variable is x.`);
}
