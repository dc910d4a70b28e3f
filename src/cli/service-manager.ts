import { execFile } from 'node:child_process'
import type { Log } from '../core/kit/log.ts'

/** Without this many notifications in its interval the service manager takes the process for hung. */
const PINGS_PER_INTERVAL = 2

/**
 * Tells systemd what this process does (sd_notify(3)), where it runs as a unit of `Type=notify`: that it is ready, that it
 * ends, that it lives, and which process is the main one after a hand-over. Node cannot send on Unix datagram sockets, so
 * `systemd-notify` does; it also knows abstract sockets.
 */
export class ServiceManager {
  readonly #environment: Readonly<Record<string, string | undefined>>
  readonly #log: Log
  #hasWarned = false
  #watchdog: NodeJS.Timeout | undefined

  constructor(environment: Readonly<Record<string, string | undefined>>, log: Log) {
    this.#environment = environment
    this.#log = log
  }

  /** The role serves. This process is the main one from now on, also if it was started by its predecessor. */
  ready(): Promise<void> {
    this.#startWatchdog()
    return this.#notify('READY=1', `MAINPID=${process.pid}`, 'STATUS=serving')
  }

  /** The configuration was read again. */
  reloaded(): Promise<void> {
    return this.#notify('STATUS=serving; configuration read again')
  }

  /**
   * The successor is the main process and is watched from now on: pings of this process would hide that it hangs. Awaited before this one
   * ends: a unit whose main process has ended is started again, beside the successor.
   */
  async handedOver(successor: number | undefined): Promise<void> {
    clearInterval(this.#watchdog)
    if (successor !== undefined) await this.#notify(`MAINPID=${successor}`)
  }

  stopping(): Promise<void> {
    return this.#notify('STOPPING=1', 'STATUS=draining')
  }

  /** Pings come from the event loop: one that is stuck sends none, and the process is started again. */
  #startWatchdog(): void {
    const { WATCHDOG_USEC: interval } = this.#environment
    const ms = Number(interval) / 1_000 / PINGS_PER_INTERVAL
    if (Number.isFinite(ms) && ms > 0) this.#watchdog = setInterval(() => void this.#notify('WATCHDOG=1'), ms).unref()
  }

  #notify(...assignments: string[]): Promise<void> {
    const { NOTIFY_SOCKET: socket } = this.#environment
    if (socket === undefined || socket === '') return Promise.resolve()
    const env = { PATH: this.#environment['PATH'] ?? '/usr/bin:/bin', NOTIFY_SOCKET: socket }
    return new Promise((resolve) => {
      execFile('systemd-notify', assignments, { env, timeout: 5_000 }, (error) => {
        if (error !== null) this.#warn(error)
        resolve()
      })
    })
  }

  #warn(error: Error): void {
    if (this.#hasWarned) return
    this.#hasWarned = true
    this.#log.warn('cannot notify the service manager', { error })
  }
}
