// The plugin %NAME%. Each hook is an exported object with a function of the same name.

import { fact, header } from 'tidegate:plugin/context@0.1.0';
import { get as setting } from 'wasi:config/store@0.2.0-rc.1';
import { log } from 'wasi:logging/logging@0.1.0-draft';

const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (text) => new TextEncoder().encode(text);

