import { BoundedOutput } from './bounded-output.ts'
import { isJournal, withPriorities, type Priority } from './journal.ts'

const isToJournal = isJournal(2)

/** Standard error of this process, one writer for all logs of all roles in it. */
class LogOutput extends BoundedOutput {
  /** `priority`: of lines that are not of a log. */
  override write(text: string, priority: Priority = 'warn'): void {
    super.write(toStderr(text, priority))
  }
}

export const logOutput = new LogOutput({ fd: 2, lostLine: (lines) => toStderr(lostLine(lines), 'warn') })

/** As the reader of standard error wants it. */
export function toStderr(text: string, priority: Priority): string {
  return isToJournal ? withPriorities(text, priority) : text
}

/** In the form of every other log line (see log.ts). */
function lostLine(lines: number): string {
  const time = new Date().toISOString()
  return `${JSON.stringify({ level: 'warn', time, lines, msg: 'log lines were lost: they could not be written' })}\n`
}
