import { MeshError } from '../../core/errors.ts'
import { splitHostPort } from '../../core/kit/host-port.ts'
import { endpointKey, type Ended, type Launch, type Running, type Runtime } from './runtime.ts'

/** Services that somebody else runs at a host and port: nothing is started or ended, only looked at. */
export class ExternalRuntime implements Runtime {
  readonly name = 'external'

  async launch({ assignment: { spec }, onTrace }: Launch): Promise<Running> {
    const where = spec.code === '' ? { host: '127.0.0.1' } : splitHostPort(spec.code)
    if (where === undefined) throw new MeshError('RUNTIME_FAILED', { reason: 'code is not host:port', code: spec.code })
    onTrace({ host: where.host })
    const { promise, resolve } = Promise.withResolvers<Ended>()
    const leave = () => resolve({ detail: 'no longer watched' })
    return {
      endpoints: Object.fromEntries(
        spec.ports.map((port) => [endpointKey(port), { host: where.host, port: port.target }] as const),
      ),
      ended: promise,
      pids: () => [],
      isWhole: true,
      stop: async () => leave(),
      kill: leave,
      letGo: leave,
    }
  }

  adopt(launch: Launch): Promise<Running> {
    return this.launch(launch)
  }
}
