// Other people's SealedSecrets: one JSON request on stdin, one JSON answer on stdout.
import { webcrypto } from "node:crypto";
import { encryptSecretItem } from "@linode/kubeseal-encrypt";
import { SealedSecret } from "@kubernetes-models/sealed-secrets/bitnami.com/v1alpha1/SealedSecret";

const of = (text) => Buffer.from(text, "base64");

// The package only encrypts: this is the way back, with Node's own cryptography.
async function decrypt({ key, label, sealed }) {
  const algorithm = { name: "RSA-OAEP", hash: "SHA-256" };
  const rsa = await webcrypto.subtle.importKey("pkcs8", of(key), algorithm, false, ["decrypt"]);
  const raw = of(sealed);
  const end = 2 + raw.readUInt16BE(0);
  const session = await webcrypto.subtle.decrypt({ name: "RSA-OAEP", label: Buffer.from(label) }, rsa, raw.subarray(2, end));
  const aes = await webcrypto.subtle.importKey("raw", session, "AES-GCM", false, ["decrypt"]);
  return Buffer.from(await webcrypto.subtle.decrypt({ name: "AES-GCM", iv: new Uint8Array(12) }, aes, raw.subarray(end))).toString();
}

function validate({ document }) {
  try {
    new SealedSecret(document).validate();
    return "";
  } catch (error) {
    return String(error);
  }
}

const actions = { decrypt, validate, encrypt: ({ pem, namespace, text }) => encryptSecretItem(pem, namespace, text) };
let request = "";
for await (const chunk of process.stdin) request += chunk;
const { action, ...rest } = JSON.parse(request);
process.stdout.write(JSON.stringify(await actions[action](rest)));
