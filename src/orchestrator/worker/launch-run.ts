import { explain } from '../../core/errors.ts'
import { orAborted } from '../../core/kit/abort.ts'
import { secretsOf, type SecretValue } from '../spec.ts'
import type { Launch, Running } from './runtime.ts'
import type { Standing } from './standing.ts'
import type { InstanceSupervisorParts } from './supervisor-parts.ts'

/** What the runtime needs to start the instance, or to find it again. */
export function launchOf(standing: Standing, parts: InstanceSupervisorParts, signal: AbortSignal): Launch {
  const { environment, output, leased } = parts
  return {
    assignment: standing.assignment,
    endpoints: standing.endpoints,
    environment,
    output: () => output.output(),
    secrets: () => secretValues(standing, parts, signal),
    onTrace: (trace) => standing.saveRun({ trace }),
    mayStart: async () => {
      const lease = leased(signal)
      if (lease !== undefined) await orAborted(lease, signal)
    },
    signal,
  }
}

/** Starts it when it may be started; `undefined`: it is `failed`, or `stopped` because the signal came first. */
export async function launchRun(
  standing: Standing,
  parts: InstanceSupervisorParts,
  signal: AbortSignal,
): Promise<Running | undefined> {
  const { admitted, runtime, output } = parts
  try {
    const admission = admitted(signal)
    if (admission !== undefined) await orAborted(admission, signal)
    if (admission !== undefined && signal.aborted) {
      standing.become('stopped', undefined)
      return undefined
    }
    const running = await runtime.launch(launchOf(standing, parts, signal))
    const { pid, shortcoming } = running
    output.note(pid === undefined ? 'started' : `started, process ${pid}`)
    if (shortcoming !== undefined) output.note(shortcoming)
    return running
  } catch (error) {
    standing.saveRun({ trace: undefined })
    if (signal.aborted) standing.become('stopped', undefined)
    else {
      output.note(explain(error))
      standing.become('failed', explain(error))
    }
    return undefined
  }
}

function secretValues(
  { assignment: { instance, spec } }: Standing,
  { secrets, output }: InstanceSupervisorParts,
  signal: AbortSignal,
): Promise<readonly SecretValue[]> {
  if (secretsOf(spec).length === 0) return Promise.resolve([])
  return secrets.of(instance, (sentence) => output.note(sentence), signal)
}
