import { pino, type DestinationStream } from 'pino'
import { explain } from '../errors.ts'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent'
export type Fields = Readonly<Record<string, unknown>>

/**
 * A fixed sentence plus fields. Levels: error = someone must act; warn = a flow or peer suffered; info = a state
 * changed; debug = each flow. `error` fields are printed as one line. Field names are the same everywhere:
 * `part node peer cluster service instance vip name path rttMs ms bytes reason error caller port address`.
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

type PinoLike = ReturnType<typeof pino>

export function openLog(level: LogLevel, destination?: DestinationStream): Log {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  }
  return wrap(
    destination === undefined ? pino(options, pino.destination({ fd: 2, sync: true })) : pino(options, destination),
  )
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
  isDebug: false,
}

function wrap(writer: PinoLike): Log {
  return {
    debug: (sentence, fields) => writer.debug(plain(fields), sentence),
    info: (sentence, fields) => writer.info(plain(fields), sentence),
    warn: (sentence, fields) => writer.warn(plain(fields), sentence),
    error: (sentence, fields) => writer.error(plain(fields), sentence),
    child: (fields) => wrap(writer.child(fields)),
    isDebug: writer.isLevelEnabled('debug'),
  }
}

function plain(fields: Fields = {}): Record<string, unknown> {
  return 'error' in fields ? { ...fields, error: explain(fields['error']) } : { ...fields }
}
