import { constants } from 'node:os'
import type { Ended } from '../runtime.ts'

/** Of a container, as the engine tells it. */
export interface ContainerState {
  Running?: boolean
  Pid?: number
  ExitCode?: number
  OOMKilled?: boolean
  Error?: string
  Health?: { Status?: string; Log?: { Output?: string }[] | null }
}

/** As an exit code. */
export const SIGKILL = 128 + constants.signals.SIGKILL

/** Why a container ended, in words; `memoryMb` is its limit, 0 for none. `wasAway`: its engine was, which may have ended it. */
export function exitReason(
  { ExitCode: code = 0, OOMKilled, Error = '' }: ContainerState,
  memoryMb: number,
  wasAway = false,
): Ended {
  const limit = memoryMb === 0 ? 'the memory of the node is full' : `its limit is ${memoryMb} MB`
  if (OOMKilled === true && code === SIGKILL) return { code, detail: `killed: out of memory (${limit})` }
  const fault = Error === '' ? '' : `: ${Error}`
  const killed = OOMKilled === true ? `; a process of it was killed: out of memory (${limit})` : ''
  const isUnknown = OOMKilled !== true && code === SIGKILL && memoryMb > 0 // Podman 4 does not always know
  const maybe = wasAway
    ? ' while the container engine did not answer'
    : isUnknown
      ? `, perhaps out of memory (${limit})`
      : ''
  return { code, detail: `exited with code ${code}${signalOf(code)}${maybe}${fault}${killed}` }
}

/** A shell's way to tell a signal, and the engine's. */
function signalOf(code: number): string {
  const [name] = Object.entries(constants.signals).find(([, number]) => number === code - 128) ?? []
  return code > 128 && name !== undefined ? ` (${name})` : ''
}

/** Why the health check of the image says it is not well; `undefined` when it is. */
export function healthFault({ Health }: ContainerState): string | undefined {
  if (Health?.Status === undefined || Health.Status === 'healthy') return undefined
  if (Health.Status === 'starting') return 'the health check of the image has not succeeded yet'
  const said = Health.Log?.at(-1)?.Output?.trim().slice(0, 200) ?? ''
  return `the health check of the image fails${said === '' ? '' : `: ${said}`}`
}
