import { BoundedOutput } from './bounded-output.ts'

/** Standard error of this process, one writer for all logs of all roles in it. */
export const logOutput = new BoundedOutput({ fd: 2, lostLine: (lines) => lostLine(lines) })

/** In the form of every other log line (see log.ts). */
function lostLine(lines: number): string {
  const time = new Date().toISOString()
  return `${JSON.stringify({ level: 'warn', time, lines, msg: 'log lines were lost: they could not be written' })}\n`
}
