import { stat } from 'node:fs/promises'
import { explain } from '../../../core/errors.ts'
import { Engine } from './engine.ts'

/** `auto`: where engines usually listen; otherwise the path of the socket. */
export type EngineSetting = string

export interface EngineWhere {
  setting: EngineSetting
  /** DOCKER_HOST, CONTAINER_HOST and XDG_RUNTIME_DIR count. */
  environment: Readonly<Record<string, string | undefined>>
  uid: number | undefined
}

/** Where to look, in this order. Docker before Podman, the machine's before the user's own; as a user the other way round. */
export function candidateSockets({ setting, environment, uid }: EngineWhere): string[] {
  if (setting !== 'auto') return [setting.replace(/^unix:\/\//, '')]
  const named = [environment['DOCKER_HOST'], environment['CONTAINER_HOST']].flatMap((host) =>
    host?.startsWith('unix://') === true ? [host.slice('unix://'.length)] : [],
  )
  const own = environment['XDG_RUNTIME_DIR'] ?? (uid === undefined ? undefined : `/run/user/${uid}`)
  const machines = ['/var/run/docker.sock', '/run/podman/podman.sock']
  const users = own === undefined ? [] : [`${own}/docker.sock`, `${own}/podman/podman.sock`]
  return [...new Set([...named, ...(uid === 0 ? [...machines, ...users] : [...users, ...machines])])]
}

/** Larger: a socket behind which nothing answers holds up the start of the agent for longer. */
const PROBE_MS = 2_000

/** The first engine that answers, or the one that is known and still does; otherwise why none does. */
export async function findEngine(where: EngineWhere, known?: Engine): Promise<Engine | { reason: string }> {
  try {
    await known?.ping(PROBE_MS)
    if (known !== undefined) return known
  } catch {
    // perhaps it is another one now
  }
  const sockets = candidateSockets(where)
  const faults: string[] = []
  for (const path of sockets) {
    if (!(await stat(path).catch(() => undefined))?.isSocket()) continue
    try {
      return await Engine.connect(path, PROBE_MS)
    } catch (error) {
      faults.push(explain(error))
    }
  }
  return { reason: faults[0] ?? `there is no socket at ${sockets.join(' or ')}` }
}
