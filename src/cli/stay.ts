import { setTimeout } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { BoundedOutput } from '../core/kit/bounded-output.ts'
import { logOutput } from '../core/kit/console-output.ts'
import type { Log, LogLevel } from '../core/kit/log.ts'
import type { Context } from './context.ts'
import { ServiceManager } from './service-manager.ts'
import { errorText, exitCodeOf, faultLines } from './output.ts'
import { readyText } from './ready.ts'

/** A role that runs: its summary for the user, and how it is ended. */
export interface Running extends AsyncDisposable {
  summary(): Record<string, string>
  /** Resolves to the id of the process that has taken over, where it is known; only open flows are left here. */
  readonly handedOver?: Promise<number | undefined>
  /** SIGTERM, before it is closed: serves on for a moment, so that a successor may take over. */
  makeWay?(): Promise<void>
  /** For what runs on another thread, which has a log of its own. */
  setLogLevel?(level: LogLevel): void
}

export interface StayOptions {
  context: Context
  log: Log
  start: () => Promise<Running>
  /** SIGHUP: reads again what can be read again. */
  reload: (running: Running) => Promise<void>
}

/** A second signal ends the process at once, with the exit code that a shell uses for Ctrl-C. */
const INTERRUPTED = 130
/** A process told to stop while it starts has this long to have started; then it ends well or at once. */
const START_MS = 1_000
/** The last log lines get this long. A reader that takes nothing must not keep the process. */
const FLUSH_MS = 500

/** Signals that would end a process without a handler: each ends it as SIGTERM does. SIGINT does not wait for a successor. */
const ENDING = [
  'SIGINT',
  'SIGTERM',
  'SIGQUIT',
  'SIGUSR2',
  'SIGALRM',
  'SIGVTALRM',
  'SIGXCPU',
  'SIGPWR',
  'SIGIO',
] as const
/** On SIGUSR1 Node opens a debugger port, which a daemon must not. SIGXFSZ: a write to a file that is too long fails anyway. */
const IGNORED = ['SIGUSR1', 'SIGXFSZ'] as const

/**
 * Starts a role, keeps it running until the process is told to end, and ends the process: 0 when it was told to, 1 when it
 * failed. Nothing here waits for standard output or standard error.
 */
export async function stay({ context, log, start, reload }: StayOptions): Promise<never> {
  const stdout = new BoundedOutput({ fd: 1 })
  const end = async (code: number): Promise<never> => {
    await Promise.all([logOutput.flush(FLUSH_MS), stdout.flush(FLUSH_MS)])
    // a write that a dead disk holds would keep exit() waiting for its thread
    if (logOutput.isWriting || stdout.isWriting) process.kill(process.pid, 'SIGKILL')
    process.exit(code)
  }
  const manager = new ServiceManager(context.environment, log)
  logWarnings(log)
  for (const output of [process.stdout, process.stderr]) output.on('error', () => undefined)
  process.on('uncaughtException', (error) => {
    // instances go on without us, and are taken back by the next start
    log.error('the process failed and ends', { error, stack: error.stack })
    void end(1)
  })
  const stopped = firstEndingSignal()
  for (const name of IGNORED) process.on(name, () => undefined)

  let running: Running
  try {
    const starting = start()
    const isStuck = stopped.then(() => setTimeout(START_MS, true, { ref: false }))
    if (await Promise.race([starting.then(() => false), isStuck])) return await end(INTERRUPTED)
    running = await starting
  } catch (error) {
    logOutput.write(errorText(error, context.format), 'error')
    return await end(exitCodeOf(error))
  }
  process.on('SIGHUP', () => {
    reload(running).then(
      () => {
        log.info('configuration read again', { reason: 'SIGHUP' })
        void manager.reloaded()
      },
      (error: unknown) =>
        log.error('configuration not read again: it has faults', { error, faults: faultLines(error) }),
    )
  })
  setFlagsFromString('--no-optimize-for-size') // set by the launcher, for loading
  void manager.ready()
  stdout.write(readyText(running.summary(), context.format))
  const reason = await Promise.race([stopped, ...(running.handedOver === undefined ? [] : [running.handedOver])])
  if (typeof reason === 'string') {
    log.info('told to end', { reason })
    void manager.stopping()
  } else await manager.handedOver(reason)
  try {
    if (typeof reason === 'string' && reason !== 'SIGINT') await running.makeWay?.()
    await running[Symbol.asyncDispose]()
  } catch (error) {
    log.error('some parts did not close cleanly', { error })
    return await end(1)
  }
  return await end(0)
}

/** The first signal that asks the process to end; a second one ends it at once. */
function firstEndingSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let isAsked = false
    for (const name of ENDING) {
      process.on(name, (signal) => {
        if (isAsked) process.exit(INTERRUPTED)
        isAsked = true
        resolve(signal)
      })
    }
  })
}

/** Node prints its warnings to standard error, and waits for it. */
function logWarnings(log: Log): void {
  process.removeAllListeners('warning')
  process.on('warning', ({ name, message }) => {
    if (name !== 'ExperimentalWarning') log.warn('warning of the runtime', { reason: `${name}: ${message}` })
  })
}
