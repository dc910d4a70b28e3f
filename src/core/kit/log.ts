import { pino, type DestinationStream } from 'pino'
import { explain } from '../errors.ts'
import { logOutput } from './console-output.ts'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'
export type Fields = Readonly<Record<string, unknown>>

/**
 * A constant English sentence and fields. Levels: error = someone must act; warn = a flow or a peer suffered; info = a
 * state changed; debug = each flow. An `error` field is printed as one line. docs/logs.md lists every sentence.
 */
export interface Log {
  debug(sentence: string, fields?: Fields): void
  info(sentence: string, fields?: Fields): void
  warn(sentence: string, fields?: Fields): void
  error(sentence: string, fields?: Fields): void
  /** A log whose every line carries `part` (and more). */
  child(fields: Fields): Log
  /** False when a debug line would be thrown away: ask before building costly fields. */
  readonly isDebug: boolean
}

/** The log of a process, whose level can be changed while it runs; it counts for its children too. */
export interface ProcessLog extends Log {
  setLevel(level: LogLevel): void
}

/** What is used of pino. */
interface PinoLike extends Record<'debug' | 'info' | 'warn' | 'error', (fields: object, sentence: string) => void> {
  child(fields: Fields): PinoLike
}

/** From here on lines are written. One for a log and all its children. */
interface Threshold {
  level: LogLevel
}

const LEVELS = { debug: 20, info: 30, warn: 40, error: 50, silent: 60 } as const

/** Lines go to standard error, which may stand still or fail without holding up the process (see `BoundedOutput`). */
export function openLog(level: LogLevel, destination: DestinationStream = logOutput): ProcessLog {
  const writer = pino(
    {
      level: 'debug',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label: string) => ({ level: label }) },
    },
    destination,
  )
  const threshold: Threshold = { level }
  return Object.assign(new PinoLog(writer, threshold), {
    setLevel: (to: LogLevel) => void (threshold.level = to),
  })
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
  isDebug: false,
}

class PinoLog implements Log {
  readonly #writer: PinoLike
  readonly #threshold: Threshold

  constructor(writer: PinoLike, threshold: Threshold) {
    this.#writer = writer
    this.#threshold = threshold
  }

  get isDebug(): boolean {
    return this.#writes('debug')
  }

  debug(sentence: string, fields?: Fields): void {
    if (this.#writes('debug')) this.#writer.debug(plain(fields), sentence)
  }

  info(sentence: string, fields?: Fields): void {
    if (this.#writes('info')) this.#writer.info(plain(fields), sentence)
  }

  warn(sentence: string, fields?: Fields): void {
    if (this.#writes('warn')) this.#writer.warn(plain(fields), sentence)
  }

  error(sentence: string, fields?: Fields): void {
    if (this.#writes('error')) this.#writer.error(plain(fields), sentence)
  }

  child(fields: Fields): Log {
    return new PinoLog(this.#writer.child(fields), this.#threshold)
  }

  #writes(level: LogLevel): boolean {
    return LEVELS[level] >= LEVELS[this.#threshold.level]
  }
}

const NO_FIELDS: Fields = {}

function plain(fields: Fields = NO_FIELDS): Fields {
  return 'error' in fields ? { ...fields, error: explain(fields['error']) } : fields
}
