/**
 * As much XML as a router's answers need: elements and their text, no attributes. The text is read in one pass over at most
 * `MAX_CHARS`; a document type is refused, so there are no entities but the five that XML defines.
 */
export interface Element {
  /** Without its namespace prefix. */
  readonly name: string
  /** Its own text, without that of its children, and trimmed. */
  readonly text: string
  readonly children: readonly Element[]
}

export const MAX_CHARS = 256 * 1024
const MAX_ELEMENTS = 4_096
const MAX_DEPTH = 64
const NAME = /^(?:[A-Za-z_][\w.-]{0,63}:)?([A-Za-z_][\w.-]{0,63})$/

/** The outermost element; `undefined` when the text is not XML, or too long or too deep. */
export function readXml(text: string): Element | undefined {
  if (text.length > MAX_CHARS) return undefined
  const root = new Builder('')
  const open = [root]
  let elements = 0
  let at = 0
  while (at < text.length) {
    const parent = open.at(-1)!
    const tag = text.indexOf('<', at)
    parent.text += decoded(text.slice(at, tag === -1 ? text.length : tag))
    if (tag === -1) break
    const skipped = skip(text, tag)
    if (skipped !== undefined) {
      if (skipped.end === -1) return undefined
      parent.text += skipped.text
      at = skipped.end
      continue
    }
    const end = endOf(text, tag + 1)
    if (end === -1 || text[tag + 1] === '!') return undefined
    at = end + 1
    if (text[tag + 1] === '/') {
      if (open.length === 1 || NAME.exec(text.slice(tag + 2, end).trimEnd())?.[1] !== parent.name) return undefined
      open.pop()
      continue
    }
    const isEmpty = text[end - 1] === '/'
    const [written = ''] = text.slice(tag + 1, isEmpty ? end - 1 : end).split(/\s/, 1)
    const name = NAME.exec(written)?.[1]
    if (name === undefined || ++elements > MAX_ELEMENTS) return undefined
    const element = new Builder(name)
    parent.children.push(element)
    if (!isEmpty && open.push(element) > MAX_DEPTH) return undefined
  }
  const [only, ...others] = root.children
  const isWhole = open.length === 1 && others.length === 0 && root.text.trim() === ''
  return isWhole ? only?.build() : undefined
}

/** All elements of that name, at any depth. */
export function* named(element: Element, name: string): Iterable<Element> {
  if (element.name === name) yield element
  for (const child of element.children) yield* named(child, name)
}

/** The text of the first element of that name. */
export function textOf(element: Element, name: string): string | undefined {
  for (const { text } of named(element, name)) return text
  return undefined
}

export function escaped(text: string): string {
  return text.replace(/[<>&"']/g, (char) => `&#${char.charCodeAt(0)};`)
}

class Builder {
  readonly name: string
  readonly children: Builder[] = []
  text = ''

  constructor(name: string) {
    this.name = name
  }

  build(): Element {
    const children = this.children.map((child) => child.build())
    return { name: this.name, text: this.text.trim(), children }
  }
}

/** Skips processing instructions, comments and CDATA; `end` is −1 when it is missing. */
function skip(text: string, at: number): { text: string; end: number } | undefined {
  for (const [begin, end] of [
    ['<?', '?>'],
    ['<!--', '-->'],
    ['<![CDATA[', ']]>'],
  ] as const) {
    if (!text.startsWith(begin, at)) continue
    const last = text.indexOf(end, at + begin.length)
    const isText = begin === '<![CDATA['
    return {
      text: isText && last !== -1 ? text.slice(at + begin.length, last) : '',
      end: last === -1 ? -1 : last + end.length,
    }
  }
  return undefined
}

/** The end of a tag; a quoted attribute may contain `>`. */
function endOf(text: string, from: number): number {
  let quote = ''
  for (let at = from; at < text.length; at += 1) {
    const char = text[at]!
    if (quote !== '') {
      if (char === quote) quote = ''
    } else if (char === '"' || char === "'") quote = char
    else if (char === '>') return at
    else if (char === '<') return -1
  }
  return -1
}

const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" }

function decoded(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|(lt|gt|amp|quot|apos));/gi, (whole, hex, decimal, name) => {
    if (name !== undefined) return ENTITIES[(name as string).toLowerCase()] ?? whole
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex as string, 16)
    return code > 0 && code <= 0x10_ffff ? String.fromCodePoint(code) : ''
  })
}
