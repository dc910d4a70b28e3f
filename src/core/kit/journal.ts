import { fstatSync } from 'node:fs'

/*
 * Priorities for systemd's journal, sd-daemon(3): a line that begins with `<3>` is an error, and so on. Only there: anybody else would read
 * the prefix as part of the line.
 */

const PRIORITIES = { error: '<3>', warn: '<4>', info: '<6>', debug: '<7>' } as const
export type Priority = keyof typeof PRIORITIES

/** Whether this descriptor leads to the journal; systemd.exec(5) says which device and inode that would be. */
export function isJournal(fd: number, stream = process.env['JOURNAL_STREAM']): boolean {
  if (stream === undefined || stream === '') return false
  try {
    const { dev, ino } = fstatSync(fd, { bigint: true })
    return stream === `${dev}:${ino}`
  } catch {
    return false // closed
  }
}

/** Each line with its priority: that of the log line that it is (log.ts), else the given one. */
export function withPriorities(text: string, otherwise: Priority): string {
  return text.replace(/^(?=[^\n])(?:\{"level":"(error|warn|info|debug)")?/gm, (start, level?: Priority) => {
    return PRIORITIES[level ?? otherwise] + start
  })
}
