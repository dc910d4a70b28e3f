import { createHash } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { readPlainFile } from '../../core/kit/plain-file.ts'
import type { InstanceId } from '../../core/model/ids.ts'

/*
 *     run/x.out      named pipe: what the program prints
 *     run/x.rest     the beginning of a line that one reader of the pipe leaves to the next
 *     logs/x.log     lines, each with the time; when it is full it becomes
 *     logs/x.log.1
 */
export interface OutputFiles {
  pipe: string
  rest: string
  kept: string
}

export interface OutputFolders {
  runDir: string
  logsDir: string
}

const PIPE = '.out'

export function filesOf(instance: InstanceId, { runDir, logsDir }: OutputFolders): OutputFiles {
  const name = fileNameOf(instance)
  return {
    pipe: join(runDir, `${name}${PIPE}`),
    rest: join(runDir, `${name}.rest`),
    kept: join(logsDir, `${name}.log`),
  }
}

/** The instance that a file in the run folder is the pipe of, as a file name. */
export function pipeOwner(file: string): string | undefined {
  return file.endsWith(PIPE) ? file.slice(0, -PIPE.length) : undefined
}

/** Ids may be longer than a file name (255 bytes): those keep their beginning and get a digest. */
export function fileNameOf(instance: InstanceId): string {
  if (instance.length <= 200) return instance
  return `${instance.slice(0, 150)}-${createHash('sha256').update(instance).digest('hex').slice(0, 32)}`
}

/** What an earlier reader left. */
export function takeRest({ rest }: OutputFiles): string {
  try {
    return readPlainFile(rest) ?? ''
  } catch {
    return '' // it cannot be read: the line loses its beginning
  } finally {
    rmSync(rest, { force: true })
  }
}

export function leaveRest({ rest }: OutputFiles, text: string): void {
  try {
    if (text !== '') writeFileSync(rest, text, { mode: 0o600, flag: 'wx' }) // `takeRest` has removed the last one
  } catch {
    // no room: the line loses its beginning
  }
}
