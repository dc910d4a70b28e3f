import { existsSync, lstatSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { readPlainFile } from '../../core/kit/plain-file.ts'

/*
 * What must not leave the machine. A secret is known by its form, and those of this machine by their text as well.
 */

export const REMOVED = '[removed]'

const FORMS: readonly RegExp[] = [
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[^]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
  /hedgerow-(?:join|admin)\.[A-Za-z0-9_.=-]+/g,
  // of requests, in YAML or JSON: `headers: { … }`, or the indented lines below it
  /(?<=\bheaders["']?:\s*)\{[^}]*\}/g,
  /(?<=^([ \t]*)["']?headers["']?:[ \t]*)(?:\n\1[ \t]+[^\n]*|\n[ \t]*(?=\n))+/gm,
  /(?<=\bauthorization["']?\s{0,3}[=:]\s{0,3})[^\n]+/gi,
  /\bBearer\s+[^\s"',]+/gi,
  // user:password@ of an address
  /(?<=:\/\/)[^/\s@"']+:[^/\s@"']+(?=@)/g,
  // PASSWORD=…, "token": "…", --secret …
  /(?<=(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|private[_-]?key|credential)s?["']?\s{0,3}[=:]\s{0,3}["']?)[^\s"',;}]{3,}/gi,
]

/** The text without secrets. `known`: those of this machine. */
export function redact(text: string, known: readonly string[]): string {
  let safe = text
  for (const secret of known) safe = safe.replaceAll(secret, REMOVED)
  for (const form of FORMS) safe = safe.replace(form, REMOVED)
  return safe
}

/** Files of the state directory whose contents are secret, as a whole or in parts. */
const SECRET_FILES = /(?:^|\/)(?:admin\.json|proxies\.json|identity\.pem|authority\.pem|.*\.key)$|\/secrets?\//
/** Shorter ones are words. */
const LEAST = 12
const MAX_BYTES = 1_048_576

/** Every word of those files that may be a secret; longest first, since one may hold another. */
export function secretsIn(state: string): string[] {
  const found = new Set<string>()
  for (const path of filesBelow(state)) {
    if (!SECRET_FILES.test(path)) continue
    try {
      if (lstatSync(path).size > MAX_BYTES) continue
      for (const [word] of (readPlainFile(path) ?? '').matchAll(/[A-Za-z0-9+/=_.~-]+/g))
        if (word.length >= LEAST && !isPlain(word)) found.add(word)
    } catch {
      // not ours to read: then it is in nothing that we read
    }
  }
  return [...found].toSorted((a, b) => b.length - a.length)
}

/** Addresses, names of keys and the like are not secret, and are needed. */
function isPlain(word: string): boolean {
  return !/\d/.test(word) || /^[\d.:/]+$/.test(word) || word.startsWith('//')
}

function filesBelow(folder: string, depth = 0): string[] {
  if (depth > 4 || !existsSync(folder)) return []
  try {
    return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
      const path = join(folder, entry.name)
      return entry.isDirectory() ? filesBelow(path, depth + 1) : entry.isFile() ? [path] : []
    })
  } catch {
    return []
  }
}
