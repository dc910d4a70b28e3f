/* What a key of an SLA document may hold, and how keys.ts writes it. */

export type Kind =
  | { type: 'text'; max: number; orNumber?: true }
  /** `percent`: also a percentage as text, up to this. */
  | { type: 'number'; min: number; max: number; whole?: true; percent?: number }
  | { type: 'flag' }
  | { type: 'choice'; words: readonly string[] }
  | { type: 'list'; of: 'text' | 'object' | 'any'; max: number; textMax?: number }
  | { type: 'object' }
  /** Checked by a reader of its own. */
  | { type: 'any' }

export interface Key {
  name: string
  kind: Kind
  /** For people, in Markdown. */
  meaning: string
  /** `oakestra`: part of Oakestra's v2.0 schema. `hedgerow`: added by us. */
  origin: 'oakestra' | 'hedgerow'
  /** Accepted without effect, and warned about when it has a value. `instead` says what to do. */
  unused?: { instead?: string }
}

export const text = (max = 256): Kind => ({ type: 'text', max })
export const whole = (min: number, max: number): Kind => ({ type: 'number', min, max, whole: true })
export const wholeOrPercent = (max: number, percent: number): Kind => ({
  type: 'number',
  min: 0,
  max,
  whole: true,
  percent,
})
export const amount = (max: number): Kind => ({ type: 'number', min: 0, max })
export const texts = (max: number, textMax: number): Kind => ({ type: 'list', of: 'text', max, textMax })
export const choice = (...words: string[]): Kind => ({ type: 'choice', words })
export const flag: Kind = { type: 'flag' }
export const object: Kind = { type: 'object' }
export const objects = (max: number): Kind => ({ type: 'list', of: 'object', max })
export const any: Kind = { type: 'any' }
export const port = whole(1, 65_535)

export const theirs = (name: string, kind: Kind, meaning: string): Key => ({ name, kind, meaning, origin: 'oakestra' })
export const ours = (name: string, kind: Kind, meaning: string): Key => ({ name, kind, meaning, origin: 'hedgerow' })
export const unused = (name: string, kind: Kind, meaning: string, instead?: string): Key => ({
  ...theirs(name, kind, meaning),
  unused: instead === undefined ? {} : { instead },
})

export const loose: Kind = { type: 'list', of: 'any', max: 1_000 }
