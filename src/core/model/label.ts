import { POLICY_WORDS, isDigits } from './choice.ts'

/** RFC 1035 §2.3.4. */
export const LABEL_LIMIT = 63

/** `any`, every policy word, and digits alone: never the name of an app, a service or a namespace, so that names are unambiguous. */
export function isReserved(label: string): boolean {
  return label === 'any' || POLICY_WORDS.has(label) || isDigits(label)
}

/** Why a lower-case label cannot name an app, a service or a namespace; `undefined` when it can. */
export function labelFault(label: string): string | undefined {
  const shape = shapeFault(label)
  if (shape !== undefined) return shape
  if (isDigits(label)) return 'digits alone mean an instance number'
  return isReserved(label) ? 'a reserved word: it says how an instance is chosen' : undefined
}

function shapeFault(label: string): string | undefined {
  if (label.length === 0) return 'empty'
  if (label.length > LABEL_LIMIT) return `${label.length} characters long; ${LABEL_LIMIT} is the limit`
  if (label.charCodeAt(0) === HYPHEN || label.charCodeAt(label.length - 1) === HYPHEN) {
    return 'begins or ends with a hyphen'
  }
  for (let i = 0; i < label.length; i++) {
    if (!isLabelCode(label.charCodeAt(i))) {
      return `has ${JSON.stringify(characterAt(label, i))}; only letters, digits and inner hyphens are allowed`
    }
  }
  return undefined
}

const HYPHEN = 45

/** `a`–`z`, `A`–`Z`, `0`–`9`, `-` */
function isLabelCode(code: number): boolean {
  return (code >= 97 && code <= 122) || (code >= 48 && code <= 57) || (code >= 65 && code <= 90) || code === HYPHEN
}

function characterAt(label: string, index: number): string {
  return String.fromCodePoint(label.codePointAt(index) as number)
}
