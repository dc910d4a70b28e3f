/*
 * What people read on a terminal: sentences, and the one line that shows how far a long command is. Characters beyond ASCII that
 * are ours (dashes, quotes, arrows) are written only where the locale has them; colours come from `styleText`, which knows
 * NO_COLOR, FORCE_COLOR and TERM.
 */

type Environment = Readonly<Record<string, string | undefined>>
type Output = Pick<NodeJS.WriteStream, 'write'> & { isTTY?: boolean }

/** The locale as POSIX finds it: the first of these that is set. */
const LOCALE = ['LC_ALL', 'LC_CTYPE', 'LANG'] as const

let locale: string | undefined

/** Once, before anything is written. */
export function setLocale(environment: Environment): void {
  locale = LOCALE.map((name) => environment[name]).find((value) => value !== undefined && value !== '')
}

/** Where no locale is set, files and pipes get UTF-8 all the same: who reads them is no terminal. */
export function isAsciiOnly(chosen: string | undefined, isTerminal: boolean): boolean {
  if (chosen === undefined) return isTerminal
  return !/utf-?8/i.test(chosen)
}

const ASCII: Readonly<Record<string, string>> = {
  '–': '-',
  '—': '-',
  '−': '-',
  '‘': "'",
  '’': "'",
  '“': '"',
  '”': '"',
  '…': '...',
  '×': 'x',
  '→': '->',
  '≤': '<=',
  '≥': '>=',
  µ: 'u',
}

export function inAscii(text: string): string {
  return text.replaceAll(/[–—−‘’“”…×→≤≥µ]/g, (char) => ASCII[char] ?? char)
}

/** Our own text, as this output can show it. */
export function shown(text: string, { isTTY = false }: { isTTY?: boolean }): string {
  return isAsciiOnly(locale, isTTY) ? inAscii(text) : text
}

/** A line of the result. */
export function say(line = ''): void {
  clearProgress()
  process.stdout.write(`${shown(line, process.stdout)}\n`)
}

/** A line beside the result: what happens meanwhile, and what else there is to know. */
export function note(line: string): void {
  clearProgress()
  process.stderr.write(`${shown(line, process.stderr)}\n`)
}

const CLEAR = '\r\u001b[K'
let showing: Output | undefined

/** How far a long command is: one line of a terminal, written over by the next; nothing where the reader is no terminal. */
export function progress(text: string, output: Output = process.stderr): void {
  if (output.isTTY !== true) return
  output.write(`${CLEAR}${shown(text, output)}`)
  showing = output
}

export function clearProgress(): void {
  showing?.write(CLEAR)
  showing = undefined
}
