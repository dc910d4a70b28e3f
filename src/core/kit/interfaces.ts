import { networkInterfaces, type NetworkInterfaceInfo } from 'node:os'

let known: NodeJS.Dict<NetworkInterfaceInfo[]> = {}

/**
 * The interfaces of this machine and their addresses. The system needs a descriptor to list them: while none is left, the last
 * list stands.
 */
export function interfacesHere(list: typeof networkInterfaces = networkInterfaces): typeof known {
  try {
    known = list()
  } catch {
    // EMFILE: the next question may be answered
  }
  return known
}
