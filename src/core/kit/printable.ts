/*
 * Text that comes from elsewhere (a node's name or address, an instance's message, an HTTP header) may hold terminal escape
 * sequences: shown as they are, they could repaint the operator's screen, set its title, or forge a log line (CWE-150, CWE-117).
 */

/**
 * C0 and C1 controls and DEL; what turns the direction of writing (U+061C, U+200E-F, U+202A-E, U+2066-9) and so shows another
 * text than the one that is there; what has no width (U+200B, U+2060-4), so that two texts look the same; line and paragraph
 * separators; the byte order mark. The joiners of scripts and emoji (U+200C-D) stay.
 */
// eslint-disable-next-line no-control-regex
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/g

/** The text on one line, safe to show: what a terminal or a log reader would act on is escaped, as `\x1b` or `\u202e`. */
export function printable(text: string): string {
  return text.toWellFormed().replace(UNPRINTABLE, escaped)
}

/** As `printable`, for text of several lines: line feeds and tabs stay. */
export function printableLines(text: string): string {
  return text.toWellFormed().replace(UNPRINTABLE, (char) => (char === '\n' || char === '\t' ? char : escaped(char)))
}

/** Colours and weights, `ESC [ 1 ; 31 m`, which a terminal forgets with the next reset. */
// eslint-disable-next-line no-control-regex
const COLOURS = /(\u001b\[[0-9;:]{0,40}m)/

/** As `printableLines`, but colours (SGR) stay. `text` ends where a line ends, or holds no begun sequence. */
export function printableColours(text: string): string {
  return text
    .split(COLOURS)
    .map((part, at) => (at % 2 === 1 ? part : printableLines(part)))
    .join('')
}

/** JSON as people and programs read it: what `printable` escapes is written as JSON escapes it, so that the value is the same. */
export function printableJson(value: unknown, indent?: number): string {
  return inQuotes(JSON.stringify(value, undefined, indent))
}

/** JSON, or YAML whose strings with such characters are in double quotes; outside of strings there are line feeds only. */
export function inQuotes(text: string): string {
  return text.replace(UNPRINTABLE, (char) =>
    char === '\n' ? char : `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** A value whose strings, at any depth and in keys too, are printable; what holds none is returned as it is. */
export function printableValue(value: unknown): unknown {
  if (typeof value === 'string') return printable(value)
  if (Array.isArray(value)) return value.map(printableValue)
  if (!isPlainObject(value)) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [printable(key), printableValue(inner)]))
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

function escaped(char: string): string {
  const code = char.charCodeAt(0)
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`
}
