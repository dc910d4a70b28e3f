import { getSystemErrorMessage } from 'node:util'
import { printable } from './kit/printable.ts'

type Details = Readonly<Record<string, unknown>>

/** The first of the sentences whose details are all there, with the `reason` behind it where the sentence does not use it. */
export function sentenceOf(sentences: readonly string[], details: Details): string {
  const sentence = sentences.find((one) =>
    keysOf(outer(one)).every((keys) => keys.some((key) => isThere(details, key))),
  )
  const chosen = sentence ?? sentences.at(-1) ?? ''
  const text = filled(
    chosen.replaceAll(OPTIONAL, (_all, inner: string) =>
      keysOf(inner).every((keys) => keys.some((key) => isThere(details, key))) ? inner : '',
    ),
    details,
  )
  return isThere(details, 'reason') && !chosen.includes('{reason}') ? `${text}: ${wordsOf(details['reason'])}` : text
}

/**
 * The cause of an error in words: `connection refused` for `connect ECONNREFUSED 127.0.0.1:7470`, with the address or file only
 * where the sentence before it has not named it already.
 */
export function reasonOf(cause: unknown, sentence: string): string {
  if (!(cause instanceof Error)) return String(cause)
  if (cause instanceof AggregateError && cause.errors.length > 0) return reasonOf(cause.errors[0], sentence)
  const { code = '', errno, syscall = '', path, address, port, hostname } = cause as SystemError
  if (syscall.startsWith('spawn'))
    return code === 'ENOENT' ? `${path ?? syscall.slice(6)} is not installed` : cause.message
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return `the name ${hostname ?? ''} cannot be resolved`
  if (errno === undefined || syscall === '') return cause.message
  const where = address === undefined ? path : port === undefined ? address : `${address}:${port}`
  const words = getSystemErrorMessage(errno) ?? cause.message
  return where === undefined || sentence.includes(where) ? words : `${words}, ${where}`
}

interface SystemError {
  code?: string
  errno?: number
  syscall?: string
  path?: string
  address?: string
  port?: number
  hostname?: string
}

const OPTIONAL = /\[([^\]]*)\]/g
const PLACE = /\{([a-z|]+)\}/gi

function outer(sentence: string): string {
  return sentence.replaceAll(OPTIONAL, '')
}

/** Of each place the keys it can take. */
function keysOf(sentence: string): string[][] {
  return [...sentence.matchAll(PLACE)].map(([, keys = '']) => keys.split('|'))
}

function filled(sentence: string, details: Details): string {
  return sentence.replaceAll(PLACE, (_all, keys: string) => {
    const key = keys.split('|').find((one) => isThere(details, one))
    return key === undefined ? '' : wordsOf(details[key])
  })
}

function isThere(details: Details, key: string): boolean {
  const value = details[key]
  return value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0)
}

function wordsOf(value: unknown): string {
  if (typeof value === 'string') return printable(value)
  if (Array.isArray(value)) return value.map(wordsOf).join(', ')
  if (typeof value !== 'object' || value === null) return String(value)
  return Object.entries(value)
    .map(([key, part]) => `${printable(key)} (${wordsOf(part)})`)
    .join(', ')
}
